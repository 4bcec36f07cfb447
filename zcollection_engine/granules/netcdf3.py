"""How long a NetCDF-3 file must be by its own header.

The netCDF library opens a cut file without complaint and returns zeros for what is missing. The header holds
all that is needed to notice. Source: "The NetCDF Classic Format Specification" (Unidata), with its 64-bit
offset (CDF-2) and 64-bit data (CDF-5) variants. The stored ``vsize`` is not used: it is redundant, and too
small a field for large variables.

No number of the header is trusted: every read is checked against the end of the data, every loop consumes
data, and sizes saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from zcollection_engine.errors import InvalidGranuleError

_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 0x0A, 0x0B, 0x0C
_CLASSIC_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8}
_WIDE_TYPES = _CLASSIC_TYPES | {7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_MAX_RANK = 1024
_HUGE = 1 << 63


@dataclass(frozen=True, slots=True)
class _Slab:
    """Where a variable's data begin, and their bytes: all of them, or those of one record."""

    begin: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a header says about the data behind it; ``records`` is None when the number was left open."""

    header_nbytes: int
    count_nbytes: int
    records: int | None
    fixed: tuple[_Slab, ...]
    record: tuple[_Slab, ...]

    @property
    def record_nbytes(self) -> int:
        """Bytes from one record to the next: only a lone record variable is not padded to four bytes."""
        if len(self.record) == 1:
            return self.record[0].nbytes
        return sum(_padded(slab.nbytes) for slab in self.record)

    def nbytes(self, records: int) -> int:
        ends = [self.header_nbytes, *(slab.begin + slab.nbytes for slab in self.fixed)]
        total = self.header_nbytes + sum(slab.nbytes for slab in self.fixed)
        if records:
            before_last = (records - 1) * self.record_nbytes
            ends += [slab.begin + before_last + slab.nbytes for slab in self.record]
            total += records * sum(slab.nbytes for slab in self.record)
        return max(*ends, total)

    def whole_records(self, size: int) -> int:
        """Number of records that are complete in a file of ``size`` bytes."""
        if not self.record or not self.record_nbytes:
            return 0
        last = max(slab.begin + slab.nbytes for slab in self.record)
        return max(0, (size - last) // self.record_nbytes + 1)


class _Cursor:
    """Bounds-checked reading of a header."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.position = 4
        version = data[3] if data[:3] == b"CDF" and len(data) > 3 else 0
        if version not in {1, 2, 5}:
            raise InvalidGranuleError(f"{name}: not a NetCDF-3 header: {data[:4]!r}", reason="not_netcdf")
        self.count_nbytes = 8 if version == 5 else 4
        self.offset_nbytes = 4 if version == 1 else 8
        self.types = _WIDE_TYPES if version == 5 else _CLASSIC_TYPES

    def fail(self, what: str) -> NoReturn:
        raise InvalidGranuleError(
            f"{self.name}: damaged NetCDF-3 header at byte {self.position}: {what}; have the granule delivered again",
            reason="unreadable",
        )

    def skip(self, nbytes: int) -> int:
        """Step over ``nbytes`` bytes and return where they began."""
        begin = self.position
        if nbytes > len(self.data) - begin:
            raise InvalidGranuleError(
                f"{self.name}: truncated: the NetCDF-3 header does not end within the {len(self.data)} bytes of the "
                "file; have the granule delivered again",
                reason="truncated",
            )
        self.position += nbytes
        return begin

    def number(self, nbytes: int = 4) -> int:
        begin = self.skip(nbytes)
        return int.from_bytes(self.data[begin : begin + nbytes], "big")

    def count(self) -> int:
        return self.number(self.count_nbytes)

    def element_nbytes(self) -> int:
        code = self.number()
        if code not in self.types:
            self.fail(f"{code} is not a data type")
        return self.types[code]

    def items(self, tag: int) -> Iterator[int]:
        """Iterate over the entries of a list; the caller must consume at least four bytes for each."""
        found, count = self.number(), self.count()
        if found != tag and (found, count) != (0, 0):
            self.fail(f"expected list {tag:#04x}, found {found:#04x}")
        return iter(range(count))

    def skip_name(self) -> None:
        self.skip(_padded(self.count()))

    def skip_attributes(self) -> None:
        for _ in self.items(_ATTRIBUTES):
            self.skip_name()
            self.skip(_padded(self.element_nbytes() * self.count()))


def implied_size(data: bytes, *, name: str = "granule") -> int:
    """Return how many bytes a NetCDF-3 file has at least, by its header.

    Padding behind the last value is not counted. When the header leaves the number of records open (a writer
    that streams), as many records count as the file holds.

    Parameters
    ----------
    data
        The file, or as much of it as there is. CDF-1, CDF-2 and CDF-5.
    name
        What errors call the file.

    Raises
    ------
    InvalidGranuleError
    """
    layout = _parse(data, name)
    records = layout.whole_records(len(data)) if layout.records is None else layout.records
    return layout.nbytes(records)


def with_record_count(data: bytes, *, name: str = "granule") -> bytes:
    """Return a file whose header tells the number of records; the netCDF library cannot open one that leaves
    it open.

    Raises
    ------
    InvalidGranuleError
        As for `implied_size`.
    """
    layout = _parse(data, name)
    if layout.records is not None:
        return data
    count = layout.whole_records(len(data)).to_bytes(layout.count_nbytes, "big")
    return data[:4] + count + data[4 + layout.count_nbytes :]


def _parse(data: bytes, name: str) -> _Layout:
    cursor = _Cursor(data, name)
    records: int | None = cursor.count()
    if records == (1 << 8 * cursor.count_nbytes) - 1:
        records = None
    lengths = []
    for _ in cursor.items(_DIMENSIONS):
        cursor.skip_name()
        lengths.append(cursor.count())
    cursor.skip_attributes()
    fixed: list[_Slab] = []
    record: list[_Slab] = []
    for _ in cursor.items(_VARIABLES):
        slab, is_record = _variable(cursor, lengths)
        (record if is_record else fixed).append(slab)
    for slab in (*fixed, *record):
        if slab.nbytes and slab.begin < cursor.position:
            cursor.fail(f"data are said to begin at byte {slab.begin}, inside the header")
    return _Layout(cursor.position, cursor.count_nbytes, records, tuple(fixed), tuple(record))


def _variable(cursor: _Cursor, lengths: list[int]) -> tuple[_Slab, bool]:
    cursor.skip_name()
    rank = cursor.count()
    if rank > _MAX_RANK:
        cursor.fail(f"a variable with {rank} dimensions")
    shape = []
    for _ in range(rank):
        index = cursor.count()
        if index >= len(lengths):
            cursor.fail(f"a variable uses dimension {index} of {len(lengths)}")
        shape.append(lengths[index])
    if 0 in shape[1:]:
        cursor.fail("the record dimension is not a variable's first")
    cursor.skip_attributes()
    nbytes = cursor.element_nbytes()
    cursor.count()
    begin = cursor.number(cursor.offset_nbytes)
    is_record = shape[:1] == [0]
    for length in shape[1:] if is_record else shape:
        nbytes = min(nbytes * length, _HUGE)
    return _Slab(begin, nbytes), is_record


def _padded(nbytes: int) -> int:
    return -(-nbytes // 4) * 4
