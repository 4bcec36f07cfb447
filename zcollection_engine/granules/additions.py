"""Row variables that a granule brings and its collection lacks, as the collection would store them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NoReturn, Self

from zcollection_engine.codecs import with_codecs
from zcollection_engine.errors import SchemaMismatchError
from zcollection_engine.granules.conform import new_variables
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule
from zcollection_engine.schema import Dimension, Schema, Variable


@dataclass(frozen=True, slots=True)
class Addition:
    """Variables to be added to a collection, and those of their dimensions that it does not have; false if none."""

    variables: tuple[Variable, ...] = ()
    dimensions: tuple[Dimension, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.variables)

    @classmethod
    def between(cls, old: Schema, new: Schema) -> Self:
        """Return what a schema has more than another one."""
        return cls(
            tuple(v for v in new.variables if v.path not in old.by_path),
            tuple(d for d in new.dimensions if d.name not in old.sizes),
        )

    def to(self, schema: Schema) -> Schema:
        """Return a schema that has them."""
        return replace(
            schema,
            dimensions=(*schema.dimensions, *self.dimensions),
            variables=(*schema.variables, *self.variables),
        )


def find_addition(granule: Granule, schema: Schema, *, dropped: Collection[str] = ()) -> Addition:
    """Return what a granule would add to a collection.

    dtype, dimensions, attributes (packing among them) and fill value are those that `infer_schema` derives, chunks have
    as many rows as the axis's, codecs are the default. Without a fill value NaN stands for it in floats and "" in text.

    Parameters
    ----------
    granule
        As read.
    schema
        Of the collection.
    dropped
        Paths of variables that were taken out of the collection on purpose: they stay out.

    Raises
    ------
    SchemaMismatchError
        For a variable of a type that cannot be stored, and for one of integers or truth values without fill value:
        nothing says what the rows that are there would read as.
    """
    if (granule.axis, granule.dimension) != (schema.axis, schema.dimension):
        return Addition()
    paths = [path for path in new_variables(granule, schema) if path not in dropped]
    if not paths:
        return Addition()
    for path in paths:
        _check_type(granule, path)
    alone = replace(granule, variables={path: granule.variables[path] for path in (granule.axis, *paths)})
    inferred = infer_schema(alone, chunk_rows=schema[schema.axis].chunks[0], provenance=False)
    known = schema.sizes
    dimensions = tuple(d for d in inferred.dimensions if d.name not in known)
    # Under the collection's own schema, so that the default is the one of its Zarr format.
    fresh = tuple(replace(inferred[path], fill_value=_fill(granule, inferred[path]), codecs=None) for path in paths)
    coded = with_codecs(replace(Addition(fresh, dimensions).to(schema), variables=(schema[schema.axis], *fresh)))
    return Addition(tuple(coded[path] for path in paths), dimensions)


def _check_type(granule: Granule, path: str) -> None:
    dtype = granule.variables[path].values.dtype
    if dtype.kind not in "biufO":
        _refuse(granule, path, f"{dtype} values", "numbers or text", "exclude it, or convert it")


def _fill(granule: Granule, variable: Variable) -> int | float | str | bool | None:
    if variable.fill_value is not None or variable.is_text:
        return variable.fill_value
    if variable.numpy_dtype.kind == "f":
        return math.nan
    return _refuse(
        granule,
        variable.path,
        f"{variable.dtype} values without a fill value",
        "one for the rows that are there",
        "declare _FillValue in the product, add the variable with a fill value (add_variables), exclude it, or choose"
        " the drift policy new = 'ignore'",
    )


def _refuse(granule: Granule, path: str, found: str, expected: str, advice: str) -> NoReturn:
    raise SchemaMismatchError(
        f"{granule.name}: variable {path!r}, which would be new to the collection, has {found}, needed is {expected};"
        f" {advice}",
        granule=granule.name,
        variable=path,
        found=found,
        expected=expected,
    )
