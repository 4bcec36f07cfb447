"""Fit a granule to the schema of its collection, or say why it does not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import SchemaMismatchError
from zcollection_engine.granules.drift import DEFAULT_POLICY, DriftPolicy, remedy
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.granules.packing import Packing, RecodeError
from zcollection_engine.granules.recode import is_unsigned, recode
from zcollection_engine.granules.timeunits import UnitsError, is_time_units
from zcollection_engine.granules.unitconversion import Conversion, conversion
from zcollection_engine.schema import PROVENANCE, TIME_UNITS, Scalar, Schema, Variable

_ANOTHER_PRODUCT = "ingest it into a collection of its own"


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


def conform(
    granule: Granule, schema: Schema, policy: DriftPolicy = DEFAULT_POLICY, *, required: Collection[str] = ()
) -> Granule:
    """Return a granule with exactly the schema's variables, in its dtypes, dimensions, fill values, packing and units.

    Variables that the schema does not have are left out (`new_variables` names those that could be added), `PROVENANCE`
    is not among the result. Values that mean "missing" are translated. Attributes that only describe may differ: the
    result has the schema's. Variables without the partitioned dimension are taken as they are; whether they agree with
    those stored is for the caller to compare (`immutable_digest`).

    Parameters
    ----------
    granule
        As read.
    schema
        Of the collection.
    policy
        What to do about each kind of drift.
    required
        Paths of the variables, beside the axis, that may not be missing whatever the policy: those that decide in which
        partition a row lies and which rows it replaces.

    Raises
    ------
    SchemaMismatchError
        Naming granule, variable, what was found and what is expected: for drift that the policy rejects; for other
        dimensions or longer ones, units that cannot be converted, a dtype that cannot be cast safely, missing or padded
        values without a fill value; for values that the schema's dtype, packing, units or fill value cannot hold to
        within half a unit of the granule's own packing.
    """
    if granule.axis != schema.axis:
        _Subject(granule.name, granule.axis).reject(
            f"the role of axis ({granule.axis!r})", f"the axis {schema.axis!r}", "set the axis or rename it"
        )
    if granule.dimension != schema.dimension:
        _Subject(granule.name, granule.axis).reject(
            f"dimension {granule.dimension!r}", f"dimension {schema.dimension!r}", _ANOTHER_PRODUCT
        )
    if policy.new == "reject":
        _refuse_new(granule, schema)
    fitting = _Fitting(granule, schema, policy, frozenset({schema.axis, *required}))
    wanted = [variable for variable in schema.variables if variable.path != PROVENANCE]
    variables = {variable.path: fitting.fit(variable) for variable in wanted}
    return Granule(granule.name, schema.axis, schema.dimension, variables, granule.attributes)


def new_variables(granule: Granule, schema: Schema) -> tuple[str, ...]:
    """Return the paths of a granule's row variables that the schema lacks, in order; `PROVENANCE` is never new."""
    return tuple(path for path in _unknown(granule, schema) if granule.dimension in granule.variables[path].dimensions)


def _unknown(granule: Granule, schema: Schema) -> tuple[str, ...]:
    return tuple(sorted(granule.variables.keys() - schema.by_path.keys() - {PROVENANCE}))


def _refuse_new(granule: Granule, schema: Schema) -> None:
    unknown = _unknown(granule, schema)
    if unknown:
        names = ", ".join(repr(path) for path in unknown)
        raise SchemaMismatchError(
            f"{granule.name}: the collection does not have the variables {names}; check 'include' and 'exclude' in the "
            f"collection's settings, or whether this is another product; {remedy('new')}",
            granule=granule.name,
            variable=unknown[0],
            found=names,
            expected="no other variables than the collection's",
        )


@dataclass(frozen=True, slots=True)
class _Fitting:
    """One granule on its way into one collection."""

    granule: Granule
    schema: Schema
    policy: DriftPolicy
    required: frozenset[str]

    def fit(self, variable: Variable) -> GranuleVariable:
        subject = _Subject(self.granule.name, variable.path)
        found = self.granule.variables.get(variable.path)
        if found is None:
            values = self._filled(variable, subject)
        else:
            shape = self._shape(found, variable, subject)
            values = _padded(self._values(found, variable, subject), shape, variable, subject)
        return GranuleVariable(variable.dimensions, values, variable.attributes, variable.fill_value)

    def _filled(self, variable: Variable, subject: _Subject) -> npt.NDArray[Any]:
        """Return rows of fill values for a variable that is missing."""
        advice = "check 'include' in the collection's settings, or whether this is another product"
        may_fill = variable.path not in self.required and self.schema.dimension in variable.dimensions
        if may_fill and self.policy.missing == "fill":
            shape = tuple(self._sizes[name] for name in variable.dimensions)
            return np.full(shape, _fill(variable, subject, "no such variable"), variable.numpy_dtype)
        if may_fill:
            advice = f"{advice}; {remedy('missing')}"
        elif variable.path in self.required:
            advice = f"{advice}; without it rows have no place in the collection"
        raise SchemaMismatchError(
            f"{self.granule.name}: variable {variable.path!r} is missing, the collection has it as {variable.dtype} "
            f"{variable.dimensions}; {advice}",
            granule=self.granule.name,
            variable=variable.path,
            found="no such variable",
            expected=f"{variable.dtype} {variable.dimensions}",
        )

    @property
    def _sizes(self) -> Mapping[str, int]:
        sizes = {name: size or 0 for name, size in self.schema.sizes.items()}
        return {**sizes, self.schema.dimension: self.granule.rows}

    def _shape(self, found: GranuleVariable, variable: Variable, subject: _Subject) -> tuple[int, ...]:
        """Return the shape that the collection wants, after a check that values of the granule's shape go into it."""
        if found.dimensions != variable.dimensions:
            subject.reject(f"the dimensions {found.dimensions}", f"{variable.dimensions}", _ANOTHER_PRODUCT)
        sizes = self._sizes
        for name, size in zip(found.dimensions, found.values.shape, strict=True):
            shorter = size < sizes[name] and name != self.schema.dimension
            if size != sizes[name] and not (shorter and self.policy.size == "pad"):
                advice = f"{_ANOTHER_PRODUCT}, or exclude it"
                subject.reject(
                    f"{size} values along {name!r}",
                    f"{sizes[name]}",
                    f"{advice}; {remedy('size')}" if shorter else advice,
                )
        return tuple(sizes[name] for name in variable.dimensions)

    def _values(self, found: GranuleVariable, variable: Variable, subject: _Subject) -> npt.NDArray[Any]:
        change = self._conversion(found, variable, subject)
        if variable.is_text or found.values.dtype.kind not in "iufb":
            return _fit_text(found, variable, change, subject)
        try:
            self._check_encoding(found, variable, change)
            return recode(found, variable, change)
        except RecodeError as error:
            if change.is_identity:
                subject.reject(error.found, error.expected, error.advice)
            subject.reject(
                _units(found.attributes, variable.attributes),
                _units(variable.attributes, found.attributes),
                f"converted to these it has {error.found}, the collection has {error.expected}; {error.advice}",
            )

    def _conversion(self, found: GranuleVariable, variable: Variable, subject: _Subject) -> Conversion:
        theirs, ours = found.attributes, variable.attributes
        if is_unsigned(theirs) != is_unsigned(ours):
            subject.reject(
                f"_Unsigned {theirs.get('_Unsigned')!r}",
                f"_Unsigned {ours.get('_Unsigned')!r}",
                "its values have another meaning: convert them first",
            )
        try:
            change = conversion(theirs, ours)
            if not change.is_identity:
                self._check_conversion(variable, change)
        except UnitsError as error:
            subject.reject(
                _units(theirs, ours),
                _units(ours, theirs),
                f"its values have another meaning: convert them first ({error})",
            )
        return change

    def _check_conversion(self, variable: Variable, change: Conversion) -> None:
        if change.whole and variable.path == self.schema.axis:
            raise UnitsError(f"an axis that is a time is read as {TIME_UNITS}: correct the units in the schema")
        if self.policy.units == "reject":
            raise UnitsError(remedy("units"))

    def _check_encoding(self, found: GranuleVariable, variable: Variable, change: Conversion) -> None:
        """Refuse what the policy rejects even if nothing would be lost; raises `RecodeError`."""
        theirs, ours = found.values.dtype.newbyteorder("<"), variable.numpy_dtype
        if self.policy.dtype == "reject" and theirs != ours:
            raise RecodeError(
                f"dtype {theirs.name}", f"dtype {ours.name}", f"convert it, or {_ANOTHER_PRODUCT}; {remedy('dtype')}"
            )
        declared, wanted = Packing.of(found.attributes), Packing.of(variable.attributes)
        if self.policy.packing == "reject" and wanted not in {declared, declared.converted(change)}:
            raise RecodeError(f"{declared}", f"{wanted}", f"pack it as the collection is; {remedy('packing')}")


def _units(attributes: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Spell out the units, with the calendar where one of the two is a time."""
    text = f"units {attributes.get('units')!r}"
    is_time = is_time_units(attributes.get("units")) or is_time_units(others.get("units"))
    return f"{text} (calendar {attributes.get('calendar')!r})" if is_time else text


def _fill(variable: Variable, subject: _Subject, found: str) -> Scalar:
    """Return what stands for a value that the granule does not have."""
    if variable.fill_value is not None:
        return variable.fill_value
    if variable.is_text:
        return ""
    if variable.numpy_dtype.kind != "f":
        subject.reject(
            found,
            f"it as {variable.dtype} without a fill value that could stand in its place",
            "create the collection with a fill value, or have the granule produced again",
        )
    return math.nan


def _padded(
    values: npt.NDArray[Any], shape: tuple[int, ...], variable: Variable, subject: _Subject
) -> npt.NDArray[Any]:
    """Append fill values up to a shape."""
    if values.shape == shape:
        return values
    whole = np.full(shape, _fill(variable, subject, f"the shape {values.shape} of {shape}"), variable.numpy_dtype)
    whole[tuple(slice(size) for size in values.shape)] = values
    return whole


def _fit_text(found: GranuleVariable, variable: Variable, change: Conversion, subject: _Subject) -> npt.NDArray[Any]:
    is_text = found.values.dtype.kind == "O"
    if not (variable.is_text and is_text):
        kind = "text" if is_text else f"{found.values.dtype} values"
        subject.reject(kind, variable.dtype, f"this is another product, {_ANOTHER_PRODUCT}")
    if not change.is_identity:
        units = found.attributes.get("units"), variable.attributes.get("units")
        subject.reject(f"text in units {units[0]!r}", f"units {units[1]!r}", "text cannot be converted: correct them")
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
