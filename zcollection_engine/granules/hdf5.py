"""Damage to an HDF5 file on which the HDF5 library never ends.

The library walks through a global heap, where strings and references to dimensions lie, by the sizes that its objects
tell. A free object of no bytes leads it back to itself, for ever, in code that no exception or signal handler of ours
interrupts. Zeros in place of a block that was lost on the way are enough for that. So the heaps are walked through here
first.

Source: "HDF5 File Format Specification Version 3.0", section III.E (global heap).
"""

from __future__ import annotations

from collections.abc import Iterator

from zcollection_engine.errors import InvalidGranuleError

#: Signature and version of a collection, and what is reserved behind them.
_COLLECTION = b"GCOL\x01\x00\x00\x00"
_HEADER_NBYTES = 16
#: Index, count of references, four reserved bytes, size.
_OBJECT_NBYTES = 16


def check_heaps(data: bytes, *, name: str) -> None:
    """Refuse a file with a global heap that cannot be walked through.

    Parameters
    ----------
    data
        A file. Heaps with lengths of 8 bytes are found, as the netCDF library writes them.
    name
        What errors call the file.

    Raises
    ------
    InvalidGranuleError
        Reason "unreadable".
    """
    for begin in _collections(data):
        end = begin + int.from_bytes(data[begin + 8 : begin + 16], "little")
        at = begin + _HEADER_NBYTES
        while at + _OBJECT_NBYTES <= min(end, len(data)):
            index = int.from_bytes(data[at : at + 2], "little")
            size = int.from_bytes(data[at + 8 : at + 16], "little")
            step = _OBJECT_NBYTES + -(-size // 8) * 8 if index else size
            if not step or step > end - at:
                raise InvalidGranuleError(
                    f"{name}: damaged: an object of {size} bytes at byte {at} cannot be in the global heap from byte "
                    f"{begin} to {end} of this HDF5 file; have the granule delivered again",
                    reason="unreadable",
                    granule=name,
                )
            at += step


def _collections(data: bytes) -> Iterator[int]:
    at = data.find(_COLLECTION)
    while at >= 0:
        yield at
        at = data.find(_COLLECTION, at + 8)
