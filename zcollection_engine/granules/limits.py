"""How much memory the values of a granule may take, told by what its file declares, before they are read.

A file of a kilobyte may declare terabytes: compressed zeros, an unlimited dimension that nothing was written to, or a
header that lies. `Budget` counts, in bytes:

=================  ==========================================================================================
numbers            their size
characters         4 each, and 64 for each text that they are joined to: what Python strings take at most
strings            64 each, and 4 for each character once it is known
the axis           32 more for each row, for its decoding
the largest chunk  twice: what a compressed chunk takes, before and after
=================  ==========================================================================================

While a reader turns what it read into a granule, both are in memory. So a reader takes at most twice the limit, besides
the file itself, its attributes and what its library takes. A compressed chunk that gives more than its declared size is
not covered: the library finds out by decompressing it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from types import EllipsisType
from typing import Literal

from zcollection_engine.errors import InvalidGranuleError

Kind = Literal["numbers", "characters", "strings"]
Selection = tuple[int | slice | EllipsisType, ...]

_TEXT_NBYTES = 64
_CHARACTER_NBYTES = 4
_AXIS_NBYTES = 32


class Budget:
    """The memory that one granule may take.

    Parameters
    ----------
    max_nbytes
        Limit in bytes (`GranuleSpec.max_nbytes`).
    name
        What errors call the granule.
    """

    def __init__(self, max_nbytes: int, *, name: str) -> None:
        self._max_nbytes = max_nbytes
        self._name = name
        self._taken = 0
        self._chunk = 0

    @property
    def left(self) -> int:
        """Bytes that are not taken yet."""
        return self._max_nbytes - self._taken - 2 * self._chunk

    def reserve(self, path: str, shape: tuple[int, ...], itemsize: int = 1, *, kind: Kind = "numbers") -> None:
        """Take what a variable needs.

        Parameters
        ----------
        path
            Of the variable.
        shape
            As declared; of characters with their own dimension.
        itemsize
            Bytes of a number.
        kind
            What the values are.

        Raises
        ------
        InvalidGranuleError
            Reason "too_large".
        """
        values = math.prod(shape)
        if kind == "numbers":
            nbytes = itemsize * values
        elif kind == "strings":
            nbytes = _TEXT_NBYTES * values
        else:
            nbytes = _CHARACTER_NBYTES * values + _TEXT_NBYTES * math.prod(shape[:-1] if len(shape) > 1 else shape)
        self._take(path, nbytes, f"of shape {shape}")

    def reserve_axis(self, path: str, rows: int) -> None:
        """Take what decoding the axis needs, besides its values; raises as `reserve`."""
        self._take(path, _AXIS_NBYTES * rows, f"of {rows} rows")

    def reserve_chunk(self, path: str, chunk: tuple[int, ...], itemsize: int) -> None:
        """Take what reading the largest chunk of all needs; raises as `reserve`."""
        self._chunk = max(self._chunk, itemsize * math.prod(chunk))
        self._take(path, 0, f"with chunks of shape {chunk}")

    def add_text(self, path: str, texts: Iterable[str]) -> None:
        """Take what the characters of strings need that were read; raises as `reserve`."""
        self._take(path, _CHARACTER_NBYTES * sum(map(len, texts)), "of strings")

    def blocks(self, shape: tuple[int, ...], longest: int) -> Iterator[Selection]:
        """Iterate over selections that divide an array of strings so that each can be afforded.

        Parameters
        ----------
        shape
            Of the array.
        longest
            Bytes of the longest string that there may be. As many strings are selected at once as would fit into what
            is left then, one at least.
        """
        most = max(1, self.left // (_TEXT_NBYTES + _CHARACTER_NBYTES * longest))
        if math.prod(shape) <= most:
            yield (...,)
        elif math.prod(shape[1:]) <= most:
            step = most // math.prod(shape[1:])
            yield from ((slice(at, at + step),) for at in range(0, shape[0], step))
        else:
            for at in range(shape[0]):
                yield from ((at, *rest) for rest in self.blocks(shape[1:], longest))

    def _take(self, path: str, nbytes: int, what: str) -> None:
        self._taken += nbytes
        if self.left < 0:
            raise InvalidGranuleError(
                f"{self._name}: its values would take {self._taken + 2 * self._chunk} bytes of memory with variable "
                f"{path} {what}, more than the limit of {self._max_nbytes}; exclude the variable, or raise max_nbytes "
                "if the granule is sound",
                reason="too_large",
                granule=self._name,
                variable=path,
            )
