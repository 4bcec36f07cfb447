"""Damage to files, drawn from a seed: the same seed and file give the same damage."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.hdf5 import DATASPACE, SIGNATURES, seal, sealed_blocks

#: A damaged file is cut at so many bytes.
MAX_FILE_NBYTES = 1 << 20

_HEADER_NBYTES = 640
_CLASSIC = b"CDF"
#: Sizes, counts and addresses that headers lie with, besides those made of the file's own length.
_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 16, 64, 255, 256, 4096, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 1 << 20, 1 << 24),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63),
    *((1 << 64) - 2, (1 << 64) - 1),
)


def damaged(data: bytes, other: bytes, random: Random) -> tuple[bytes, tuple[str, ...]]:
    """Return a file with one to three damages, and the names of these.

    Parameters
    ----------
    data
        The file.
    other
        Another one, for a file made of two.
    random
        Where all choices come from.
    """
    changed = bytearray(data)
    names = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        name = random.choice(_WEIGHTED)
        MUTATIONS[name](changed, other, random)
        del changed[MAX_FILE_NBYTES:]
        names.append(name)
    return bytes(changed), tuple(names)


def _flip_bits(data: bytearray, _other: bytes, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set_bytes(data: bytearray, _other: bytes, random: Random) -> None:
    for _ in range(random.choice((1, 2, 4, 16))):
        if data:
            data[random.randrange(len(data))] = random.choice((0, 0xFF, random.randrange(256)))


def _truncate(data: bytearray, _other: bytes, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _append(data: bytearray, other: bytes, random: Random) -> None:
    begin, end = _range(other, random)
    data += random.choice((random.randbytes(random.randrange(1, 200)), other[begin:end]))


def _duplicate(data: bytearray, _other: bytes, random: Random) -> None:
    begin, end = _range(data, random)
    data[end:end] = data[begin:end]


def _delete(data: bytearray, _other: bytes, random: Random) -> None:
    begin, end = _range(data, random)
    del data[begin:end]


def _blank(data: bytearray, _other: bytes, random: Random) -> None:
    begin, end = _range(data, random)
    data[begin:end] = random.choice((b"\0", b"\xff")) * (end - begin)


def _copy_inside(data: bytearray, _other: bytes, random: Random) -> None:
    begin, end = _range(data, random)
    to = random.randrange(len(data) + 1)
    data[to : to + end - begin] = data[begin:end]


def _splice(data: bytearray, other: bytes, random: Random) -> None:
    """Go on with another file, from the same place or from any."""
    cut = random.randrange(len(data) + 1)
    data[cut:] = other[random.choice((cut, random.randrange(len(other) + 1))) :]


def _lie_in_header(data: bytearray, _other: bytes, random: Random) -> None:
    """Overwrite a number near the beginning."""
    limit = min(len(data), _HEADER_NBYTES)
    if data.startswith(_CLASSIC):
        _put(data, 4 * random.randrange(1, max(2, limit // 4)), random, order="big")
    elif limit:
        _put(data, random.randrange(limit), random)


def _lie_behind_signature(data: bytearray, _other: bytes, random: Random) -> None:
    """Overwrite a number in the metadata of an HDF5 file, whatever their checksum."""
    places = [at for signature in SIGNATURES for at in _places(data, signature)]
    if not places:
        _lie_in_header(data, _other, random)
        return
    _put(data, random.choice(places) + random.randrange(4, 160), random)


def _lie_sealed(data: bytearray, _other: bytes, random: Random) -> None:
    """Overwrite a number in the metadata of an HDF5 file so that the checksum holds."""
    blocks = sealed_blocks(bytes(data))
    if not blocks:
        _lie_in_header(data, _other, random)
        return
    parts = [(part, block) for block in blocks for part in block.parts]
    kind = random.choice(sorted({part.kind for part, _ in parts}, key=str))
    part, block = random.choice([each for each in parts if each[0].kind == kind])
    place = random.randrange(part.begin, part.end)
    behind = bytes(data[block.end :])
    if random.randrange(4):
        _put(data, place, random)
    else:
        data[place] ^= 1 << random.randrange(8)
    data[block.end :] = behind
    seal(data, block)


def _lie_about_shape(data: bytearray, other: bytes, random: Random) -> None:
    """Give an array of an HDF5 file a length that it has not."""
    blocks = sealed_blocks(bytes(data))
    shapes = [
        (part, block) for block in blocks for part in block.parts if part.kind == DATASPACE and data[part.begin + 1]
    ]
    if not shapes:
        _lie_in_header(data, other, random)
        return
    part, block = random.choice(shapes)
    at = part.begin + 4 + 8 * random.randrange(data[part.begin + 1])
    length = random.choice((0, 1, 23, 25, 1 << 16, 1 << 20, 1 << 24, 1 << 32, 1 << 40, 1 << 62))
    data[at : at + 8] = length.to_bytes(8, "little")
    seal(data, block)


MUTATIONS: dict[str, Callable[[bytearray, bytes, Random], None]] = {
    "flip bits": _flip_bits,
    "set bytes": _set_bytes,
    "truncate": _truncate,
    "append": _append,
    "duplicate": _duplicate,
    "delete": _delete,
    "blank": _blank,
    "copy inside": _copy_inside,
    "splice": _splice,
    "lie in the header": _lie_in_header,
    "lie behind a signature": _lie_behind_signature,
    "lie under a checksum": _lie_sealed,
    "lie about a shape": _lie_about_shape,
}
#: Lies reach deepest, so they come most often.
_WEIGHTED = (*MUTATIONS, *("flip bits", "lie in the header", "lie behind a signature"), *("lie under a checksum",) * 4)


def _put(data: bytearray, at: int, random: Random, order: str = "") -> None:
    """Write a number that headers lie with, never beyond the end."""
    width = random.choice((4, 4, 8) if order else (1, 2, 4, 8))
    size = len(data)
    number = random.choice((*_NUMBERS, size, size - 1, size + 1, size // 2, random.randrange(size + 1)))
    kind = order or random.choice(("little", "little", "little", "big"))
    text = (number % (1 << 8 * width)).to_bytes(width, "big" if kind == "big" else "little")
    data[at : at + width] = text[: max(0, size - at)]


def _range(data: bytes | bytearray, random: Random) -> tuple[int, int]:
    """A range of the data: most often short, at any place."""
    begin = random.randrange(len(data) + 1)
    longest = random.choice((4, 16, 256, len(data)))
    return begin, min(len(data), begin + random.randrange(longest + 1))


def _places(data: bytearray, signature: bytes) -> list[int]:
    places = []
    at = data.find(signature)
    while at >= 0:
        places.append(at)
        at = data.find(signature, at + 1)
    return places
