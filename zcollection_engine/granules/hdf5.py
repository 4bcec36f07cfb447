"""What is found out about an HDF5 file before the HDF5 library sees it.

The library walks through a global heap, where strings and references to dimensions lie, by the sizes that its objects
tell. A free object of no bytes leads it back to itself, for ever, in code that no exception or signal handler of ours
interrupts. Zeros in place of a block that was lost on the way are enough for that. So the heaps are walked through here
first, which also tells how long a string may be.

Source: "HDF5 File Format Specification Version 3.0", sections II.A (superblock) and III.E (global heap).
"""

from __future__ import annotations

from collections.abc import Iterator

from zcollection_engine.errors import InvalidGranuleError

SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Signature and version of a collection of the heap, and what is reserved behind them.
_COLLECTION = b"GCOL\x01\x00\x00\x00"
#: Bytes before the first object, and before each object's content, whatever the width of lengths.
_HEADER_NBYTES = 16


def superblock(data: bytes) -> int | None:
    """Return where an HDF5 file begins: at byte 0, or behind a block of the user's own (512 bytes, or a doubling)."""
    offset = 0
    while offset < len(data):
        if data.startswith(SIGNATURE, offset):
            return offset
        offset = 2 * offset or 512
    return None


def check_heaps(data: bytes, *, name: str) -> int:
    """Refuse a file with a global heap that cannot be walked through.

    Parameters
    ----------
    data
        A file; only one of HDF5 has heaps.
    name
        What errors call the file.

    Returns
    -------
    int
        Bytes of the longest object: no string is longer.

    Raises
    ------
    InvalidGranuleError
        Reason "unreadable".
    """
    offset = superblock(data)
    if offset is None or len(data) < offset + 16:
        return 0
    width = data[offset + (14 if data[offset + 8] < 2 else 10)]
    longest = 0
    for begin in _collections(data):
        end = begin + int.from_bytes(data[begin + 8 : begin + 8 + width], "little")
        at = begin + _HEADER_NBYTES
        while at + _HEADER_NBYTES <= min(end, len(data)):
            index = int.from_bytes(data[at : at + 2], "little")
            size = int.from_bytes(data[at + 8 : at + 8 + width], "little")
            step = _HEADER_NBYTES + -(-size // 8) * 8 if index else size
            if not step or step > end - at:
                raise InvalidGranuleError(
                    f"{name}: damaged: an object of {size} bytes at byte {at} cannot be in the global heap from byte "
                    f"{begin} to {end} of this HDF5 file; have the granule delivered again",
                    reason="unreadable",
                    granule=name,
                )
            longest = max(longest, size if index else 0)
            at += step
    return longest


def _collections(data: bytes) -> Iterator[int]:
    at = data.find(_COLLECTION)
    while at >= 0:
        yield at
        at = data.find(_COLLECTION, at + 8)
