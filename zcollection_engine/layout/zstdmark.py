"""A mark inside a zstd frame that decoders pass over, so that equal values never have equal bytes.

16 empty blocks stand behind the last one of the frame: RLE blocks that repeat their one byte no times. The byte is
free.
Source: RFC 8878, sections 3.1.1 (frame: header, blocks, checksum) and 3.1.1.2.2 (RLE_Block).
"""

from __future__ import annotations

import struct

from zcollection_engine.errors import FormatError

MARK_SIZE = 16

_MAGIC = 0xFD2FB528
_LAST = 1
_RLE = 1


def mark(frame: bytes, identity: bytes) -> bytes:
    """Return a zstd frame with 16 bytes in it that no decoder gives back; it grows by 64 bytes.

    Raises
    ------
    FormatError
        If ``frame`` is not exactly one zstd frame.
    """
    if len(identity) != MARK_SIZE:
        raise ValueError(f"a mark has {MARK_SIZE} bytes, not {len(identity)}")
    last, end = _last_block(frame)
    blocks = b"".join(
        (_RLE << 1 | (_LAST if i == MARK_SIZE - 1 else 0)).to_bytes(3, "little") + bytes([byte])
        for i, byte in enumerate(identity)
    )
    return b"".join((frame[:last], bytes([frame[last] & ~_LAST]), frame[last + 1 : end], blocks, frame[end:]))


def _last_block(frame: bytes) -> tuple[int, int]:
    """Where the last block starts and where it ends."""
    try:
        magic, descriptor = struct.unpack_from("<IB", frame)
        single = descriptor >> 5 & 1
        content_size = (single, 2, 4, 8)[descriptor >> 6]
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        place = 5 + (1 - single) + dictionary + content_size
        while True:
            header = int.from_bytes(struct.unpack_from("<3s", frame, place)[0], "little")
            end = place + 3 + (1 if header >> 1 & 3 == _RLE else header >> 3)
            if header & _LAST:
                break
            place = end
    except struct.error as error:
        raise FormatError("these bytes are no zstd frame") from error
    if magic != _MAGIC or end + (4 if descriptor & 4 else 0) != len(frame):
        raise FormatError("these bytes are not one zstd frame")
    return place, end
