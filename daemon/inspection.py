"""What a collection holds: a summary, its partitions and its variables. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from daemon.redaction import redact_text
from daemon.rendering import iso, make_table, printable, short, styled
from zcollection_engine.collection import Collection
from zcollection_engine.commits.opening import Moment
from zcollection_engine.errors import NotFoundError
from zcollection_engine.jsonvalues import encode_fill_value, json_value
from zcollection_engine.opening import open_collection
from zcollection_engine.partitioning import RESOLUTIONS
from zcollection_engine.schema import TIME_UNITS, Schema, Variable
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.view import Partition

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Inspection:
    """The whole report.

    Attributes
    ----------
    url
        Root of the collection, without credentials.
    created
        UTC.
    commit, committed
        Number and time of the last commit; None if there is none.
    granules
        Number of granules that are in.
    schema
        Of the collection.
    partitioning, merge
        The rules, as in ``_zcollection.json``.
    partitions
        In the order of their keys.
    """

    url: str
    created: datetime
    commit: int | None
    committed: datetime | None
    granules: int
    schema: Schema
    partitioning: Mapping[str, Any]
    merge: Mapping[str, Any]
    partitions: tuple[Partition, ...]

    @property
    def rows(self) -> int:
        return sum(partition.rows for partition in self.partitions)

    @property
    def period(self) -> tuple[Any, Any] | None:
        """Smallest and greatest axis value, in the stored unit; None without rows."""
        if not self.partitions:
            return None
        return min(p.first for p in self.partitions), max(p.last for p in self.partitions)

    @property
    def axis_is_time(self) -> bool:
        """Whether the axis holds nanoseconds since 1970."""
        return self.schema[self.schema.axis].attributes.get("units") == TIME_UNITS

    def to_json(self) -> dict[str, Any]:
        """The report for machines; times are ISO 8601 UTC, on the axis with nanoseconds."""
        period = self.period
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "created": iso(self.created),
            "commit": self.commit,
            "committed": iso(self.committed),
            "rows": self.rows,
            "granules": self.granules,
            "axis": {"path": self.schema.axis, "dimension": self.schema.dimension, "is_time": self.axis_is_time},
            "period": {"first": self._axis_json(period[0]), "last": self._axis_json(period[1])} if period else None,
            "partitioning": json_value(self.partitioning),
            "merge": json_value(self.merge),
            "partitions": [self._partition_json(partition) for partition in self.partitions],
            "variables": [_variable_json(variable) for variable in self.schema.variables],
        }

    def axis_text(self, value: Any) -> str:
        """An axis value for people; times in whole seconds."""
        if not self.axis_is_time:
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{np.datetime_as_string(np.datetime64(value, 'ns'), unit='s').replace('T', ' ')}Z"

    def _axis_json(self, value: Any) -> Any:
        return f"{np.datetime_as_string(np.datetime64(value, 'ns'))}Z" if self.axis_is_time else json_value(value)

    def _partition_json(self, partition: Partition) -> dict[str, Any]:
        return {
            **asdict(partition),
            "keys": dict(partition.keys),
            "first": self._axis_json(partition.first),
            "last": self._axis_json(partition.last),
        }


def inspect(url: str, storage: StorageOptions, *, at: Moment | None = None) -> Inspection:
    """Open a collection for reading and report what it holds, or what it held at an older commit.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If a newer version wrote it.
    StorageError
        If its store cannot be reached.
    InvalidInputError, SnapshotExpiredError
        If ``at`` was never there, or the log no longer reaches back to it.
    """
    return describe(open_collection(url, at=at, storage=storage))


def describe(collection: Collection) -> Inspection:
    """Report what an open collection holds, as of the commit it stands on."""
    state = collection.state
    if state.creation is None:
        raise NotFoundError(f"{collection.url}: there is no collection here")
    return Inspection(
        redact_text(collection.url),
        state.creation.time,
        state.last_commit if state.last_time is not None else None,
        state.last_time,
        len(state.ledger),
        collection.schema,
        collection.config.partitioning.to_json(),
        collection.config.strategy.to_json(),
        tuple(collection.partitions()),
    )


def _variable_json(variable: Variable) -> dict[str, Any]:
    attributes = {name: json_value(variable.attributes.get(name)) for name in ("units", "scale_factor", "add_offset")}
    return {
        "path": variable.path,
        "dtype": _dtype(variable),
        "dimensions": list(variable.dimensions),
        "chunks": list(variable.chunks),
        "fill_value": encode_fill_value(variable.fill_value),
        **attributes,
    }


def _dtype(variable: Variable) -> str:
    return variable.dtype if variable.is_text else variable.numpy_dtype.name


def render(inspection: Inspection, console: Console) -> None:
    """Print the report for people."""
    console.print(styled(inspection.url, "bold"), soft_wrap=True)
    for name, value in _summary(inspection):
        console.print(f"  {name:<13}{printable(value)}")
    console.print()
    columns = ("Rows", "Gen.", "Commit", "Granules")
    table = make_table("Partitions", "Path", "Rows", "First", "Last", *columns[1:], right=columns)
    for p in inspection.partitions:
        first, last = inspection.axis_text(p.first), inspection.axis_text(p.last)
        table.add_row(styled(p.path), f"{p.rows:,}", first, last, str(p.generation), str(p.commit), f"{p.granules:,}")
    if table.row_count:
        console.print(table)
    else:
        console.print("No partitions yet.")
    console.print()
    console.print(_variables(inspection.schema))


def _summary(inspection: Inspection) -> list[tuple[str, str]]:
    period = inspection.period
    commit = "none yet" if inspection.commit is None else f"{inspection.commit}, {short(inspection.committed)}"
    return [
        ("created", short(inspection.created)),
        ("last commit", commit),
        ("rows", f"{inspection.rows:,} in {len(inspection.partitions):,} partitions"),
        ("granules", f"{inspection.granules:,}"),
        ("period", f"{inspection.axis_text(period[0])} to {inspection.axis_text(period[1])}" if period else "-"),
        ("partitioned", _partitioning(inspection.partitioning)),
    ]


def _partitioning(rule: Mapping[str, Any]) -> str:
    if rule["name"] == "date":
        resolution = next(name for name, unit in RESOLUTIONS.items() if unit == rule["resolution"])
        return f"by date: one for each {resolution} of {rule['variable']}"
    return f"by {rule['name']}: {', '.join(rule['variables'])}"


def _variables(schema: Schema) -> Table:
    table = make_table("Variables", "Path", "Type", "Dimensions", "Chunks", "Units", "Packing")
    for variable in schema.variables:
        table.add_row(
            styled(variable.path),
            _dtype(variable),
            styled(", ".join(variable.dimensions)),
            " x ".join(map(str, variable.chunks)),
            styled(str(variable.attributes.get("units", ""))),
            _packing(variable),
        )
    return table


def _packing(variable: Variable) -> str:
    scale, offset = (variable.attributes.get(name) for name in ("scale_factor", "add_offset"))
    return " ".join([*([f"x {scale:g}"] if scale is not None else []), *([f"+ {offset:g}"] if offset else [])])
