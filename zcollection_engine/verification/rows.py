"""Are the rows of a partition those of the log? Of each chunk only a few numbers are kept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zcollection_engine.schema import PROVENANCE, Schema
from zcollection_engine.verification.chunks import Chunk, ChunkReader, Values
from zcollection_engine.verification.report import Code, Finding


@dataclass(frozen=True)
class Rows:
    """What the rows of a partition must be.

    Attributes
    ----------
    path
        Of the partition.
    axis
        Smallest and greatest value of the axis.
    axis_chunks
        Number of chunks of the axis.
    shares
        Rows at most by granule's id.
    """

    path: str
    axis: tuple[Any, Any] | None
    axis_chunks: int
    shares: Mapping[int, int]


@dataclass(frozen=True)
class Piece:
    """What is remembered of a decoded chunk: a few numbers.

    Attributes
    ----------
    edges
        Of a chunk of the axis: first, last, smallest, greatest value.
    ascending
        Of a chunk of the axis: whether its values are.
    origins
        Of a chunk of the origins: number of rows by granule's id.
    """

    edges: tuple[Any, Any, Any, Any] | None = None
    ascending: bool = True
    origins: Mapping[int, int] = field(default_factory=dict)


def decode_all(
    reader: ChunkReader, schema: Schema, chunks: Sequence[Chunk], pool: Executor
) -> tuple[list[Finding], list[Piece]]:
    """Decode chunks and return what is wrong with them, and what is remembered of those of axis and origins, in order.

    There are fewer pieces than such chunks if one of them cannot be read.
    """

    def look(chunk: Chunk) -> Piece | Finding:
        values = reader.read(chunk)
        return values if isinstance(values, Finding) else _remember(schema, chunk, values)

    results = list(pool.map(look, chunks))
    findings = [r for r in results if isinstance(r, Finding)]
    pieces = [r for r in results if isinstance(r, Piece) and (r.edges is not None or r.origins)]
    return findings, pieces


def _remember(schema: Schema, chunk: Chunk, values: Values) -> Piece:
    if chunk.variable.path == schema.axis and values.size:
        edges = tuple(v.item() for v in (values[0], values[-1], values.min(), values.max()))
        return Piece((edges[0], edges[1], edges[2], edges[3]), bool((values[:-1] <= values[1:]).all()))
    if chunk.variable.path == PROVENANCE:
        ids, counts = np.unique(values, return_counts=True)
        return Piece(origins=dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    return Piece()


def axis_is_whole(rows: Rows, pieces: Sequence[Piece]) -> bool:
    """Tell whether every chunk of the axis was read."""
    return sum(p.edges is not None for p in pieces) == rows.axis_chunks


def check_rows(schema: Schema, rows: Rows, pieces: Sequence[Piece]) -> Iterator[Finding]:
    """Yield what is wrong with the axis (if all of it was read) and with the origins of the rows."""
    if axis_is_whole(rows, pieces):
        yield from _check_axis(schema, rows, [p for p in pieces if p.edges is not None])
    found: Counter[int] = Counter()
    for piece in pieces:
        found.update(piece.origins)
    yield from _check_origins(rows, found)


def _check_axis(schema: Schema, rows: Rows, pieces: Sequence[Piece]) -> Iterator[Finding]:
    edges = [p.edges for p in pieces if p.edges is not None]
    key = f"{rows.path}/{schema.axis}"
    ascending = all(p.ascending for p in pieces) and all(a[1] <= b[0] for a, b in itertools.pairwise(edges))
    if not ascending:
        yield Finding(
            Code.UNSORTED_AXIS,
            rows.path,
            key,
            f"the axis {schema.axis} of {rows.path} is not in ascending order, so its chunks are not those that were"
            " committed; put them back from a backup",
        )
    bounds = (min(e[2] for e in edges), max(e[3] for e in edges)) if edges else None
    if bounds != rows.axis:
        yield Finding(
            Code.AXIS_BOUNDS,
            rows.path,
            key,
            f"the axis {schema.axis} of {rows.path} goes from {_bounds(bounds)}, the log says {_bounds(rows.axis)}; its"
            " chunks are not those that were committed: put them back from a backup",
        )


def _bounds(bounds: tuple[Any, Any] | None) -> str:
    return "nothing to nothing" if bounds is None else f"{bounds[0]} to {bounds[1]}"


def _check_origins(rows: Rows, found: Mapping[int, int]) -> Iterator[Finding]:
    key = f"{rows.path}/{PROVENANCE}"
    for identity, count in sorted(found.items()):
        most = rows.shares.get(identity)
        if most is None:
            yield Finding(
                Code.UNKNOWN_GRANULE,
                rows.path,
                key,
                f"{count} rows of {rows.path} come from granule {identity}, which by the log has no share in it; put"
                f" the chunks of {PROVENANCE} back from a backup",
            )
        elif count > most:
            yield Finding(
                Code.TOO_MANY_ROWS,
                rows.path,
                key,
                f"{count} rows of {rows.path} come from granule {identity}, which has {most} by the log; put the chunks"
                f" of {PROVENANCE} back from a backup",
            )
