"""Where an HDF5 file keeps its metadata, and how to change them so that their checksums still hold.

Without that nearly every change of a header ends at its checksum, and what is behind it is never tried.

Source: "HDF5 File Format Specification Version 3.0", sections II.A (superblock), III.A.2 (version 2 B-trees), III.G
(fractal heaps), IV.A.1.b (version 2 object headers); the checksum is Bob Jenkins' lookup3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Signatures of blocks; metadata stand within a few hundred bytes behind one.
SIGNATURES = (b"\x89HDF", b"OHDR", b"OCHK", b"TREE", b"GCOL", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"SNOD", b"HEAP")

#: Type of the message that tells an array's shape: its rank is the second byte, its lengths follow from the fifth on.
DATASPACE = 0x01

_MASK = 0xFFFFFFFF
_CONTINUATION = 0x10
#: Bytes of blocks of one size, with 8-byte offsets and lengths; the checksum is the last four.
_FIXED = {b"\x89HDF": 48, b"BTHD": 38, b"FRHP": 146}


@dataclass(frozen=True)
class Block:
    """Metadata under a checksum.

    Attributes
    ----------
    begin, end
        Of the bytes that are covered; the checksum follows.
    parts
        The messages of an object header, or the whole block.
    """

    begin: int
    end: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Part:
    """Bytes of a block that say one thing: the type of an object header's message, or the block's signature."""

    kind: int | bytes
    begin: int
    end: int


def sealed_blocks(data: bytes) -> tuple[Block, ...]:
    """Return the blocks whose checksum holds."""
    found: dict[int, Block] = {}
    for signature, nbytes in _FIXED.items():
        for begin in _occurrences(data, signature):
            end = begin + nbytes - 4
            found[begin] = Block(begin, end, (Part(signature, begin + 4, end),))
    for begin in _occurrences(data, b"OHDR"):
        for block in _object_header(data, begin):
            found[block.begin] = block
    return tuple(block for block in found.values() if _holds(data, block))


def seal(data: bytearray, block: Block) -> None:
    """Write the checksum that a block's bytes have now."""
    data[block.end : block.end + 4] = lookup3(bytes(data[block.begin : block.end])).to_bytes(4, "little")


def lookup3(data: bytes) -> int:
    """Return the checksum of metadata, 32 bits."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    if not words:
        return c
    words += [0] * (-len(words) % 3)
    for at in range(0, len(words) - 3, 3):
        a, b, c = _mixed((a + words[at]) & _MASK, (b + words[at + 1]) & _MASK, (c + words[at + 2]) & _MASK)
    return _finished((a + words[-3]) & _MASK, (b + words[-2]) & _MASK, (c + words[-1]) & _MASK)


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c) & _MASK ^ _rotated(c, 4)
    c = (c + b) & _MASK
    b = (b - a) & _MASK ^ _rotated(a, 6)
    a = (a + c) & _MASK
    c = (c - b) & _MASK ^ _rotated(b, 8)
    b = (b + a) & _MASK
    a = (a - c) & _MASK ^ _rotated(c, 16)
    c = (c + b) & _MASK
    b = (b - a) & _MASK ^ _rotated(a, 19)
    a = (a + c) & _MASK
    c = (c - b) & _MASK ^ _rotated(b, 4)
    return a, (b + a) & _MASK, c


def _finished(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rotated(b, 14)) & _MASK
    a = ((a ^ c) - _rotated(c, 11)) & _MASK
    b = ((b ^ a) - _rotated(a, 25)) & _MASK
    c = ((c ^ b) - _rotated(b, 16)) & _MASK
    a = ((a ^ c) - _rotated(c, 4)) & _MASK
    b = ((b ^ a) - _rotated(a, 14)) & _MASK
    return ((c ^ b) - _rotated(b, 24)) & _MASK


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def _occurrences(data: bytes, signature: bytes) -> Iterator[int]:
    at = data.find(signature)
    while at >= 0:
        yield at
        at = data.find(signature, at + 1)


def _object_header(data: bytes, begin: int) -> Iterator[Block]:
    """Iterate over a header's first block and those it goes on in."""
    if len(data) < begin + 32:
        return
    flags = data[begin + 5]
    at = begin + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    messages = at + width
    ordered = bool(flags & 0x04)
    pending = [(begin, messages, messages + int.from_bytes(data[at:messages], "little"))]
    while pending and len(pending) < 100:
        block, first, end = pending.pop()
        parts = tuple(_messages(data, first, min(end, len(data)), ordered=ordered))
        for part in parts:
            other = int.from_bytes(data[part.begin : part.begin + 8], "little")
            if part.kind == _CONTINUATION and data.startswith(b"OCHK", other):
                length = int.from_bytes(data[part.begin + 8 : part.end], "little")
                pending.append((other, other + 4, other + length - 4))
        if parts:
            yield Block(block, end, parts)


def _messages(data: bytes, at: int, end: int, *, ordered: bool) -> Iterator[Part]:
    head = 6 if ordered else 4
    while at + head < end:
        nbytes = int.from_bytes(data[at + 1 : at + 3], "little")
        if nbytes:
            yield Part(data[at], at + head, min(at + head + nbytes, end))
        at += head + nbytes


def _holds(data: bytes, block: Block) -> bool:
    stored = int.from_bytes(data[block.end : block.end + 4], "little")
    return len(data) >= block.end + 4 and lookup3(data[block.begin : block.end]) == stored
