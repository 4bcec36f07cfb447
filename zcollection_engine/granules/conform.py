"""Fit a granule to the schema of its collection, or say why it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import SchemaMismatchError
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.granules.recode import RecodeError, recode
from zcollection_engine.granules.timeunits import UnitsError, is_time_units, parse_time_units
from zcollection_engine.schema import PROVENANCE, Schema, Variable


@dataclass(frozen=True, slots=True)
class _Subject:
    """What an error speaks about."""

    granule: str
    path: str

    def reject(self, found: str, expected: str, advice: str) -> NoReturn:
        raise SchemaMismatchError(
            f"{self.granule}: variable {self.path!r} has {found}, the collection has {expected}; {advice}",
            granule=self.granule,
            variable=self.path,
            found=found,
            expected=expected,
        )


def conform(granule: Granule, schema: Schema) -> Granule:
    """Return a granule with exactly the schema's variables, in its dtypes, dimensions, fill values and
    packing.

    Variables that the schema does not have are left out, `PROVENANCE` is not among the result. Safe casts are
    made; values that mean "missing" are translated; values of another packing are decoded and encoded again
    in float64. Attributes that only describe may differ: the result has the schema's.

    Parameters
    ----------
    granule
        As read.
    schema
        Of the collection.

    Raises
    ------
    SchemaMismatchError
        Naming granule, variable, what was found and what is expected: for a variable that is missing, other
        dimensions, sizes or units, a dtype that cannot be cast safely, values that the schema's dtype,
        packing or fill value cannot hold to within half a unit of the granule's own packing.
    """
    if granule.axis != schema.axis:
        _Subject(granule.name, granule.axis).reject(
            f"the role of axis ({granule.axis!r})", f"the axis {schema.axis!r}", "set the axis or rename it"
        )
    if granule.dimension != schema.dimension:
        _Subject(granule.name, granule.axis).reject(
            f"dimension {granule.dimension!r}",
            f"dimension {schema.dimension!r}",
            "ingest it into a collection of its own",
        )
    wanted = [variable for variable in schema.variables if variable.path != PROVENANCE]
    variables = {variable.path: _fit(granule, variable, schema) for variable in wanted}
    return Granule(granule.name, schema.axis, schema.dimension, variables, granule.attributes)


def _fit(granule: Granule, variable: Variable, schema: Schema) -> GranuleVariable:
    subject = _Subject(granule.name, variable.path)
    found = granule.variables.get(variable.path)
    if found is None:
        raise SchemaMismatchError(
            f"{granule.name}: variable {variable.path!r} is missing, the collection has it as {variable.dtype} "
            f"{variable.dimensions}; check 'include' in the collection's settings, or whether this is another product",
            granule=granule.name,
            variable=variable.path,
        )
    _check_shape(found, variable, {**schema.sizes, schema.dimension: granule.rows}, subject)
    _check_meaning(found, variable, subject)
    if variable.is_text or found.values.dtype.kind not in "iufb":
        values = _fit_text(found, variable, subject)
    else:
        try:
            values = recode(found, variable)
        except RecodeError as error:
            subject.reject(error.found, error.expected, error.advice)
    return GranuleVariable(variable.dimensions, values, variable.attributes, variable.fill_value)


def _check_shape(
    found: GranuleVariable, variable: Variable, sizes: Mapping[str, int | None], subject: _Subject
) -> None:
    if found.dimensions != variable.dimensions:
        subject.reject(
            f"the dimensions {found.dimensions}",
            f"{variable.dimensions}",
            "ingest it into a collection of its own",
        )
    for name, size in zip(found.dimensions, found.values.shape, strict=True):
        if sizes[name] != size:
            subject.reject(
                f"{size} values along {name!r}",
                f"{sizes[name]}",
                "ingest it into a collection of its own, or exclude it",
            )


def _check_meaning(found: GranuleVariable, variable: Variable, subject: _Subject) -> None:
    for key, normal in _MEANING.items():
        if normal(variable.attributes) != normal(found.attributes):
            theirs, ours = found.attributes.get(key), variable.attributes.get(key)
            subject.reject(
                f"{key} {theirs!r}", f"{key} {ours!r}", "its values have another meaning: convert them first"
            )


def _units(attributes: Mapping[str, Any]) -> str:
    text = str(attributes.get("units") or "").strip()
    return "" if text == "1" else text


def _calendar(attributes: Mapping[str, Any]) -> str:
    """Return what the calendar adds to the units of a time: nothing, if both Gregorian ones count alike."""
    units = attributes.get("units")
    if not is_time_units(units):
        return ""
    calendar = str(attributes.get("calendar") or "standard").strip().lower()
    try:
        modern = parse_time_units(str(units)).reference[0] > 1582
    except UnitsError:
        modern = False
    if calendar == "gregorian" or (modern and calendar == "proleptic_gregorian"):
        return "standard"
    return calendar


def _signedness(attributes: Mapping[str, Any]) -> str:
    text = str(attributes.get("_Unsigned") or "false").strip().lower()
    return "" if text == "false" else text


#: Attributes that change what stored values mean, and their normal form. Others only describe: granules may differ in
#: them.
_MEANING = {"units": _units, "calendar": _calendar, "_Unsigned": _signedness}


def _fit_text(found: GranuleVariable, variable: Variable, subject: _Subject) -> npt.NDArray[Any]:
    is_text = found.values.dtype.kind == "O"
    if not (variable.is_text and is_text):
        kind = "text" if is_text else f"{found.values.dtype} values"
        subject.reject(kind, variable.dtype, "this is another product, ingest it into a collection of its own")
    ours, theirs = variable.fill_value, found.fill_value
    if theirs is None or ours == theirs or not (found.values == theirs).any():
        return found.values
    if ours is None:
        subject.reject(f"missing values ({theirs!r})", "no fill value", "create the collection with a fill value")
    return np.where(found.values == theirs, ours, found.values)


def immutable_digest(source: Granule | Mapping[str, npt.NDArray[Any]], schema: Schema | None = None) -> dict[str, str]:
    """Return the SHA-256 of each variable without the partitioned dimension, by collection path.

    Parameters
    ----------
    source
        A granule; or arrays by collection path, text as arrays of Python strings.
    schema
        Which variables to take, and in which dtype; by default those of the granule without its axis's
        dimension, or all arrays.

    Returns
    -------
    dict
        Hexadecimal digests over dtype, shape and little-endian bytes in C order; over UTF-8 with the length
        of each value for text. All NaN count as equal.
    """
    if isinstance(source, Granule):
        rows = source.dimension
        arrays = {path: v.values for path, v in source.variables.items() if rows not in v.dimensions}
    else:
        arrays = dict(source)
    if schema is not None:
        wanted = {variable.path: variable.numpy_dtype for variable in schema.immutable_variables}
        arrays = {path: np.asarray(v).astype(wanted[path]) for path, v in arrays.items() if path in wanted}
    return {path: _digest(np.asarray(values)) for path, values in sorted(arrays.items())}


def _digest(values: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    if values.dtype.kind in "OUT":
        digest.update(f"string {values.shape}".encode())
        for item in values.ravel().tolist():
            data = str(item).encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(values.shape)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    digest.update(f"{values.dtype.str} {values.shape}".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()
