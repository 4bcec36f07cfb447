"""Which file format a granule's bytes are, and whether they are all there.

The netCDF library answers a damaged file with a number. These checks come first and say what is wrong.
"""

from __future__ import annotations

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.netcdf3 import implied_size, with_record_count

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_FOREIGN = (
    (b"\x1f\x8b", "gzip-compressed data: deliver it decompressed"),
    (
        b"PK\x03\x04",
        'a zip archive: deliver the files in it, or set granule.format to "zarr" for a Zarr store in a zip',
    ),
    (b"BZh", "bzip2-compressed data: deliver it decompressed"),
    (b"(\xb5/\xfd", "zstd-compressed data: deliver it decompressed"),
    (b"\x0e\x03\x13\x01", "an HDF4 file: convert it to NetCDF"),
    (b"GRIB", "a GRIB file: convert it to NetCDF"),
    (b"BUFR", "a BUFR file: convert it to NetCDF"),
    (b"<", "a web page or XML, as servers send in place of a file: fetch it again"),
)


def openable(data: bytes, name: str) -> bytes:
    """Return the bytes that the netCDF library can open, after checking that they are whole.

    Parameters
    ----------
    data
        The file.
    name
        What errors call it.

    Raises
    ------
    InvalidGranuleError
        Reasons "empty_file", "not_netcdf", "truncated", "unreadable".
    """
    if not data:
        raise InvalidGranuleError(
            f"{name}: the file is empty (0 bytes); the delivery failed, deliver it again", reason="empty_file"
        )
    if data.startswith(_CLASSIC):
        _check_size(len(data), implied_size(data, name=name), name)
        return with_record_count(data, name=name)
    if data.startswith(_HDF5):
        _check_size(len(data), _hdf5_size(data), name)
        return data
    if _has_user_block(data):
        return data
    raise InvalidGranuleError(
        f"{name}: not a NetCDF file: its {len(data)} bytes begin with {data[:16]!r}, {_describe(data)}",
        reason="not_netcdf",
    )


def _check_size(found: int, implied: int, name: str) -> None:
    if found < implied:
        raise InvalidGranuleError(
            f"{name}: truncated: the file has {found} bytes, its header implies {implied}; it was cut on the way, "
            "deliver it again",
            reason="truncated",
        )


def _hdf5_size(data: bytes) -> int:
    """Return the end-of-file address of an HDF5 superblock without user block, 0 if it cannot be told.

    Source: "HDF5 File Format Specification", section II.A, superblock versions 0 to 3.
    """
    if len(data) < 16:
        return 16
    version = data[8]
    if version > 3:
        return 0
    width = data[13] if version < 2 else data[9]
    begin = {0: 24, 1: 28}.get(version, 12) + 2 * width
    return int.from_bytes(data[begin : begin + width], "little") if width in {2, 4, 8} else 0


def _has_user_block(data: bytes) -> bool:
    """Tell whether an HDF5 signature stands behind a block of the user's own (512 bytes, or a doubling of that)."""
    offset = 512
    while offset < len(data):
        if data.startswith(_HDF5, offset):
            return True
        offset *= 2
    return False


def _describe(data: bytes) -> str:
    for head, text in _FOREIGN:
        if data.startswith(head):
            return text
    sample = data[:64]
    if not any(sample):
        return "zeros: the storage or the transfer lost the content, deliver it again"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in sample):
        return "plain text: keep such files out of the collection's patterns"
    return "an unknown format: keep such files out of the collection's patterns"
