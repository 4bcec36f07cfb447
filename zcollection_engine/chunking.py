"""How many rows a chunk holds.

Zarr encodes a partly filled chunk at its full size, for every variable, at every append. Large chunks make
reading cheap and appending dear: about eight granules to a chunk keep an append at a few times the granule's
own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zcollection_engine.schema import PROVENANCE, TEXT, Variable

#: Granules whose rows fit in a chunk, about.
GRANULES_PER_CHUNK = 8

#: Largest decoded chunk, bytes.
MAX_CHUNK_NBYTES = 4 * 1024 * 1024

#: Bytes that a value of text counts, a typical length.
TEXT_NBYTES = 16

#: Rows of a chunk when nothing is known about the granules.
DEFAULT_CHUNK_ROWS = 32_768


def chunk_rows(granule_rows: int) -> int:
    """Return the power of two nearest, in its logarithm, to the rows of `GRANULES_PER_CHUNK` granules."""
    return int(2 ** round(math.log2(GRANULES_PER_CHUNK * max(1, granule_rows))))


def row_chunks(rows: int, inner: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the chunk shape of a row variable.

    Parameters
    ----------
    rows
        Wanted number of rows.
    inner
        Sizes of the other dimensions.
    itemsize
        Bytes of a value.

    Returns
    -------
    tuple of int
        ``rows``, or the largest power of two that keeps the chunk within `MAX_CHUNK_NBYTES`, and the inner
        dimensions whole, unless one row alone is larger than that.
    """
    row_nbytes = itemsize * math.prod(max(1, size) for size in inner)
    if rows * row_nbytes <= MAX_CHUNK_NBYTES:
        return (rows, *whole_chunks(inner, itemsize))
    fitting = MAX_CHUNK_NBYTES // row_nbytes
    return (1 << (fitting.bit_length() - 1) if fitting else 1, *whole_chunks(inner, itemsize))


def whole_chunks(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return one chunk for all of an array; the first dimensions are halved until it is within `MAX_CHUNK_NBYTES`."""
    chunks = [max(1, size) for size in shape]
    for place in range(len(chunks)):
        while chunks[place] > 1 and itemsize * math.prod(chunks) > MAX_CHUNK_NBYTES:
            chunks[place] = -(-chunks[place] // 2)
    return tuple(chunks)


def value_nbytes(dtype: str, itemsize: int) -> int:
    """Return the bytes that a value of a stored dtype counts; ``itemsize`` is that of numpy's dtype."""
    return TEXT_NBYTES if dtype == TEXT else itemsize


def provenance_variable(dimension: str, rows: int) -> Variable:
    """Return the row variable that tells which granule each row came from.

    Parameters
    ----------
    dimension
        The partitioned dimension.
    rows
        Rows of a chunk, at most.
    """
    return Variable(
        path=PROVENANCE,
        dtype="<u8",
        dimensions=(dimension,),
        chunks=row_chunks(rows, (), 8),
        attributes={
            "long_name": "granule that the row came from",
            "comment": "the first 8 bytes of a SHA-256 hash of the granule's identity; the partition's granule table "
            "resolves it to the granule's key",
        },
    )
