"""Derive the schema of a new collection from its first granule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zcollection_engine import chunking
from zcollection_engine.codecs import DEFAULT_PROFILE, Choice, with_codecs
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.granules.timeaxis import time_attributes
from zcollection_engine.jsonvalues import json_attributes
from zcollection_engine.schema import PROVENANCE, TEXT, TIME_UNITS, Dimension, Schema, Variable

#: Global attributes that describe a series of granules rather than one granule, by name: those of CF and of
#: the Attribute Convention for Data Discovery (ACDD 1.3) for the product, its makers and its use, and the
#: names under which altimetry products give mission and sensors. Times, positions, counters, history,
#: identifiers, versions of software and the names of input files are left out: they are true of one granule
#: only.
SERIES_ATTRIBUTES = frozenset(
    {
        "Conventions",
        "acknowledgement",
        "acknowledgment",
        "altimeter_sensor_name",
        "cdm_data_type",
        "citation",
        "comment",
        "contact",
        "contributor_name",
        "contributor_role",
        "doi",
        "doris_sensor_name",
        "ellipsoid_flattening",
        "ellipsoid_semi_major_axis",
        "featureType",
        "gnss_sensor_name",
        "institution",
        "instrument",
        "instrument_vocabulary",
        "keywords",
        "keywords_vocabulary",
        "license",
        "mission_name",
        "naming_authority",
        "platform",
        "platform_vocabulary",
        "processing_level",
        "program",
        "project",
        "radiometer_sensor_name",
        "references",
        "source",
        "standard_name_vocabulary",
        "summary",
        "title",
    }
)

#: The same, by the beginning of the name.
SERIES_PREFIXES = ("creator_", "publisher_")


def infer_schema(
    granule: Granule,
    *,
    chunk_rows: int | None = None,
    provenance: bool = True,
    codecs: Choice = DEFAULT_PROFILE,
    zarr_format: int = 3,
) -> Schema:
    """Return the schema of a collection to which a granule fits exactly.

    Parameters
    ----------
    granule
        As read. It must have rows, which set the size of chunks.
    chunk_rows
        Rows of a chunk; by default the power of two nearest to eight granules' rows. Variables of which that
        many rows decode to more than 4 MiB get fewer (`zcollection_engine.chunking`).
    provenance
        Whether the collection keeps the origin of each row.
    codecs
        As for `zcollection_engine.codecs.with_codecs`.
    zarr_format
        3 or 2.

    Raises
    ------
    InvalidInputError
        If ``chunk_rows`` is not positive, or for codecs that cannot be.
    InvalidGranuleError
        Reason "dimension_conflict" if two variables disagree about the size of a dimension.
    """
    if chunk_rows is not None and chunk_rows < 1:
        raise InvalidInputError(f"chunk_rows must be at least 1, it is {chunk_rows}")
    rows = chunk_rows or chunking.chunk_rows(granule.rows)
    variables = [_variable(path, found, granule, rows) for path, found in granule.variables.items()]
    if provenance:
        variables.append(chunking.provenance_variable(granule.dimension, rows))
    schema = Schema(
        axis=granule.axis,
        dimension=granule.dimension,
        dimensions=_dimensions(granule),
        variables=tuple(variables),
        attributes=series_attributes(granule.attributes),
        zarr_format=zarr_format,
    )
    return with_codecs(schema, codecs)


def series_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a granule's global attributes that describe its series, as JSON."""
    kept = {
        key: value for key, value in attributes.items() if key in SERIES_ATTRIBUTES or key.startswith(SERIES_PREFIXES)
    }
    return json_attributes(kept)


def _variable(path: str, found: GranuleVariable, granule: Granule, rows: int) -> Variable:
    if path == PROVENANCE:
        raise InvalidGranuleError(
            f"{granule.name}: variable {path!r} has the name that is reserved for the origin of each row; rename it",
            reason="reserved_name",
            granule=granule.name,
        )
    values = found.values
    dtype = TEXT if values.dtype.kind == "O" else values.dtype.newbyteorder("<").str
    nbytes = chunking.value_nbytes(dtype, values.dtype.itemsize)
    attributes = json_attributes(found.attributes)
    if path == granule.axis and attributes.get("units") == TIME_UNITS:
        attributes = time_attributes(attributes)
    if granule.dimension in found.dimensions:
        chunks = chunking.row_chunks(rows, values.shape[1:], nbytes)
    else:
        chunks = chunking.whole_chunks(values.shape, nbytes)
    return Variable(path, dtype, found.dimensions, chunks, found.fill_value, attributes)


def _dimensions(granule: Granule) -> tuple[Dimension, ...]:
    sizes: dict[str, int] = {granule.dimension: granule.rows}
    for path, found in granule.variables.items():
        for name, size in zip(found.dimensions, found.values.shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise InvalidGranuleError(
                    f"{granule.name}: variable {path!r} has {size} values along {name!r}, other variables have "
                    f"{sizes[name]}; exclude one of them",
                    reason="dimension_conflict",
                    granule=granule.name,
                )
    return tuple(Dimension(name, None if name == granule.dimension else size) for name, size in sizes.items())
