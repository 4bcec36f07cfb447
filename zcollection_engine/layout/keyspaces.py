"""Three disjoint sets of chunk keys for one array, all standard Zarr v3.

Source: Zarr v3 core specification, "Chunk key encoding": ``default`` with separator "/" or "." and ``v2``. Generation n
of an array uses space n mod 3, so a rewrite never touches a key that published metadata make visible.
"""

from __future__ import annotations

import re
from typing import Any

SPACES = 3

_ENCODINGS: tuple[tuple[str, str], ...] = (("default", "/"), ("default", "."), ("v2", "."))
_NUMBER = re.compile(r"\d+")
_PATTERNS = tuple(re.compile(p) for p in (r"c(/\d+)+", r"c(\.\d+)+", r"\d+(\.\d+)*"))


def encoding(generation: int) -> dict[str, Any]:
    """The ``chunk_key_encoding`` member of an array's metadata."""
    name, separator = _ENCODINGS[generation % SPACES]
    return {"name": name, "configuration": {"separator": separator}}


def chunk_key(generation: int, index: tuple[int, ...]) -> str:
    """Key of a chunk relative to its array."""
    name, separator = _ENCODINGS[generation % SPACES]
    parts = [str(i) for i in index]
    return separator.join(["c", *parts] if name == "default" else parts)


def is_in_space(generation: int, key: str) -> bool:
    """Tell whether ``key``, relative to its array, belongs to the space of ``generation``."""
    return _PATTERNS[generation % SPACES].fullmatch(key) is not None


def is_chunk(key: str) -> bool:
    """Tell whether ``key``, relative to its array, belongs to any space."""
    return any(is_in_space(generation, key) for generation in range(SPACES))


def parse(generation: int, key: str) -> tuple[int, ...] | None:
    """Index of the chunk at ``key``, relative to its array; None if the key is not in the space of ``generation``."""
    if not is_in_space(generation, key):
        return None
    return tuple(int(number) for number in _NUMBER.findall(key))
