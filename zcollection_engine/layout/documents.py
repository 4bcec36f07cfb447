"""Zarr v3 metadata documents: a pure function of schema, generation and number of rows.

Source of the format: Zarr v3 core specification; the ``consolidated_metadata`` member as zarr-python writes it. Every
document carries the number of the commit it was rendered for: groups as the attribute ``zcollection_commit``, arrays in
an extension member that readers need not understand.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zcollection_engine.codecs import v3_codecs
from zcollection_engine.layout import keyspaces
from zcollection_engine.schema import Scalar, Schema, Variable

DOCUMENT = "zarr.json"
COMMIT_ATTRIBUTE = "zcollection_commit"
EXTENSION = "zcollection"


@dataclass(frozen=True, slots=True)
class Version:
    """What a partition's documents are rendered for."""

    commit: int
    generation: int
    rows: int


def dump(document: Mapping[str, Any]) -> bytes:
    """Serialise a document; the same document always gives the same bytes."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def render(
    schema: Schema, version: Version, attributes: Mapping[str, Any] | None = None, *, immutable: bool = False
) -> dict[str, bytes]:
    """Render all documents of a partition, keyed by their path in it; ``zarr.json`` is the one that flips it.

    Parameters
    ----------
    schema
        The collection's schema.
    version
        Commit, generation and rows.
    attributes
        Attributes of the partition's group besides the schema's own.
    immutable
        Render the group of the variables without the partitioned dimension instead.
    """
    variables = schema.immutable_variables if immutable else schema.row_variables
    arrays = {v.path: array_document(schema, v, version) for v in variables}
    groups = {path: group_document({COMMIT_ATTRIBUTE: version.commit}) for path in _groups(variables)}
    root = group_document({**schema.attributes, **(attributes or {}), COMMIT_ATTRIBUTE: version.commit})
    nodes = {**groups, **arrays}
    documents = {f"{path}/{DOCUMENT}": dump(document) for path, document in arrays.items()}
    for path, group in groups.items():
        below = {p.removeprefix(f"{path}/"): n for p, n in nodes.items() if p.startswith(f"{path}/")}
        documents[f"{path}/{DOCUMENT}"] = dump(_consolidated(group, below))
    documents[DOCUMENT] = dump(_consolidated(root, nodes))
    return documents


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group without consolidated metadata."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def array_document(schema: Schema, variable: Variable, version: Version) -> dict[str, Any]:
    """Metadata of one array.

    Raises
    ------
    InvalidInputError
        Naming variable and codec, for a codec that Zarr v3 does not have.
    """
    sizes = schema.sizes
    shape = [version.rows if d == schema.dimension else sizes[d] for d in variable.dimensions]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "string" if variable.is_text else variable.numpy_dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(variable.chunks)}},
        "chunk_key_encoding": keyspaces.encoding(version.generation),
        "fill_value": _zarr_fill_value(variable),
        "codecs": v3_codecs(variable),
        "attributes": _attributes(variable),
        "dimension_names": list(variable.dimensions),
        "storage_transformers": [],
        EXTENSION: {"must_understand": False, "commit": version.commit},
    }


def commit_of(document: bytes) -> int:
    """Number of the commit that a document was rendered for; -1 if it carries none, or is damaged."""
    try:
        data = json.loads(document)
        if data.get("node_type") == "array":
            return int(data[EXTENSION]["commit"])
        if data.get("node_type") == "group":
            return int(data["attributes"][COMMIT_ATTRIBUTE])
        return int(data["commit"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return -1


def _groups(variables: tuple[Variable, ...]) -> list[str]:
    parts = [v.group.split("/") for v in variables if v.group]
    return sorted({"/".join(p[: i + 1]) for p in parts for i in range(len(p))})


def _consolidated(group: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {path: nodes[path] for path in sorted(nodes)}
    return {
        **group,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": metadata},
    }


def _zarr_fill_value(variable: Variable) -> Scalar:
    value = variable.fill_value
    if value is None:
        defaults: dict[str, Scalar] = {"O": "", "b": False, "f": "NaN"}
        return defaults.get(variable.numpy_dtype.kind, 0)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


def _attributes(variable: Variable) -> dict[str, Any]:
    attributes = dict(variable.attributes)
    value = variable.fill_value
    if value is not None and not variable.is_text:
        attributes["_FillValue"] = (
            base64.standard_b64encode(struct.pack("<d", value)).decode()
            if np.dtype(variable.dtype).kind == "f"
            else value
        )
    return attributes
