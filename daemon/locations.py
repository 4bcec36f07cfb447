"""Paths and URLs of the settings: made absolute, and compared."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.settings_schema import KeyPath, Node

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")
_LOCAL = re.compile(r"(?:file|local)://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")

#: Schemes of stores where an object appears whole or not at all.
_WHOLE_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"})


def absolute_path(text: str, folder: Path) -> Path:
    """Return a path as absolute: "~" expanded, relative to ``folder``, without "..".

    Symbolic links stay as they are. Raises `ValueError` where "~name" names nobody.
    """
    try:
        expanded = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r}: {error}") from error
    return Path(os.path.normpath(folder.absolute() / expanded))


def absolute_url(text: str, folder: Path) -> str:
    """Return a URL as absolute: one without a scheme, or of the local file system, goes through
    `absolute_path`.

    Any other one is returned as it is. Raises `ValueError` for one that is neither a path nor a URL.
    """
    local = _LOCAL.match(text)
    if local is None and _SCHEME.match(text):
        return text
    if _ONE_SLASH.match(text):
        raise ValueError(f"{text!r} is no URL: a scheme is followed by '://' (file:///folder, s3://bucket/prefix)")
    return f"file://{absolute_path(text[local.end() :] if local else text, folder)}"


def is_inside(url: str, container: str) -> bool:
    """Whether an absolute URL is ``container`` or lies below it."""
    return _comparable(url).startswith(_comparable(container))


def shows_whole_objects(url: str) -> bool:
    """Whether the store behind a URL never shows an object that is still being written."""
    return url.partition("://")[0].lower() in _WHOLE_OBJECTS


def absolute_locations(
    node: Node, value: Any, folder: Path, problems: list[tuple[KeyPath, str]], *, path: KeyPath = ()
) -> Any:
    """Copy settings values with every path and URL made absolute, defaults that are relative paths included.

    One that cannot be made absolute stays as it is, and is added to ``problems`` with the reason.
    """
    if node.is_location and isinstance(value, str) and value:
        try:
            return _absolute(node, value, folder)
        except ValueError as error:
            problems.append((path, str(error)))
            return value
    if isinstance(value, list) and node.item is not None:
        entries = enumerate(value)
        return [absolute_locations(node.item, entry, folder, problems, path=(*path, i)) for i, entry in entries]
    fields = node.fields(value)
    if not isinstance(value, dict) or not fields:
        return value
    present = {**_defaults(fields), **value}
    return {
        name: absolute_locations(fields[name], below, folder, problems, path=(*path, name))
        for name, below in present.items()
    }


def _absolute(node: Node, text: str, folder: Path) -> str:
    return str(absolute_path(text, folder)) if node.schema["format"] == "path" else absolute_url(text, folder)


def _defaults(fields: Mapping[str, Node]) -> dict[str, Any]:
    """Default locations of a section, and of the sections in it."""
    found = {}
    for name, node in fields.items():
        if node.is_location and node.schema.get("default"):
            found[name] = node.schema["default"]
        elif node.fields() and not node.choices and (below := _defaults(node.fields())):
            found[name] = below
    return found


def _comparable(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme.lower()}{separator}{rest.rstrip('/')}/"
