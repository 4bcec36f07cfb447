"""The tree of all settings keys, read from a model's JSON schema.

The schema, not the model's annotations, since its form is public and stable. It answers what the loader asks:
which keys exist, which of them is meant by a misspelt one, and what kind of value a key takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

#: Names of sections and keys, and positions in lists, from the root.
KeyPath = tuple[str | int, ...]

#: Stands for "any position" in the key paths of `leaves`.
EACH = "[]"


@dataclass(frozen=True, slots=True)
class Node:
    """One key of the settings, with all keys below it.

    Attributes
    ----------
    schema
        Its JSON schema, references followed.
    definitions
        The schemas that references name.
    """

    schema: Mapping[str, Any]
    definitions: Mapping[str, Any]

    @classmethod
    def of(cls, model: type[BaseModel]) -> Node:
        """Describe a model."""
        schema = model.model_json_schema()
        return cls(schema, schema.get("$defs", {}))

    def _follow(self, schema: Mapping[str, Any]) -> Node:
        options = [s for s in schema.get("anyOf", ()) if s.get("type") != "null"]
        if len(options) == 1:
            schema = {**schema, **options[0], "nullable": True}
        if "$ref" in schema:
            schema = {**schema, **self.definitions[schema["$ref"].rpartition("/")[2]]}
        return Node(schema, self.definitions)

    @property
    def choices(self) -> Mapping[str, Node]:
        """The sections it may be, by the value of `tag`; empty unless it is a choice."""
        mapping = self.schema.get("discriminator", {}).get("mapping", {})
        return {value: self._follow({"$ref": reference}) for value, reference in mapping.items()}

    @property
    def tag(self) -> str:
        """The key whose value decides between `choices`."""
        return str(self.schema["discriminator"]["propertyName"])

    def fields(self, value: object = None) -> Mapping[str, Node]:
        """Keys of a section; of a choice, those of the section that ``value`` is, else of all."""
        choices = self.choices
        if not choices:
            return {name: self._follow(s) for name, s in self.schema.get("properties", {}).items()}
        chosen = value.get(self.tag) if isinstance(value, Mapping) else None
        sections = [choices[chosen]] if isinstance(chosen, str) and chosen in choices else choices.values()
        return {name: node for section in sections for name, node in section.fields().items()}

    @property
    def item(self) -> Node | None:
        """What each entry of a list is; None for anything but a list."""
        items = self.schema.get("items")
        return None if items is None else self._follow(items)

    @property
    def is_free(self) -> bool:
        """Whether it is a table whose keys the operator chooses."""
        return isinstance(self.schema.get("additionalProperties"), Mapping)

    @property
    def is_container(self) -> bool:
        return bool(self.is_free or "items" in self.schema or self.fields())

    @property
    def is_text(self) -> bool:
        return self.schema.get("type") == "string"

    @property
    def is_nullable(self) -> bool:
        return bool(self.schema.get("nullable", False))

    @property
    def is_location(self) -> bool:
        """Whether it is a path or URL that may be relative to the settings file."""
        return self.schema.get("format") in {"path", "location"}

    def child(self, part: str | int) -> Node | None:
        """The node one step down, or None if there is no such key."""
        if isinstance(part, int):
            return self.item
        if self.is_free:
            return self._follow(self.schema["additionalProperties"])
        return self.fields().get(part)

    def find(self, path: KeyPath) -> Node | None:
        """The node at a path, or None."""
        node: Node | None = self
        for part in path:
            node = node.child(part) if node is not None else None
        return node


def leaves(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """All keys that hold a value, tables with free keys and lists of plain values included.

    Entries of lists of sections have `EACH` in place of their position.
    """
    item = node.item
    if item is not None and item.is_container:
        yield from leaves(item, (*path, EACH))
        return
    fields = node.fields()
    if not fields:
        yield path, node
    for name, child in fields.items():
        yield from leaves(child, (*path, name))


def without_unknown(node: Node, value: Any, path: KeyPath = ()) -> tuple[Any, list[tuple[KeyPath, Sequence[str]]]]:
    """Copy ``value`` without the keys that do not exist.

    Returns
    -------
    copy, unknown
        The unknown ones as pairs of path and the names known there.
    """
    unknown: list[tuple[KeyPath, Sequence[str]]] = []
    children: list[tuple[str | int, Any, Node]] = []
    fields = node.fields(value)
    if isinstance(value, Mapping) and fields:
        unknown += [((*path, key), sorted(fields)) for key in value if key not in fields]
        children += [(key, below, fields[key]) for key, below in value.items() if key in fields]
    elif isinstance(value, list) and node.item is not None:
        children += [(index, below, node.item) for index, below in enumerate(value)]
    else:
        return value, unknown
    kept = []
    for part, below, child in children:
        copy, more = without_unknown(child, below, (*path, part))
        kept.append((part, copy))
        unknown += more
    return (dict(kept) if isinstance(value, Mapping) else [copy for _, copy in kept]), unknown


def key_path(node: Node, location: Sequence[str | int]) -> KeyPath:
    """Translate the location in a pydantic error to a key path: it names the chosen member of a union as
    well."""
    path: list[str | int] = []
    current: Node | None = node
    for part in location:
        choices = current.choices if current is not None else {}
        if isinstance(part, str) and part in choices:
            current = choices[part]
            continue
        path.append(part)
        current = current.child(part) if current is not None else None
    return tuple(path)


def spelt(path: KeyPath) -> str:
    """Write a key path the way messages and the command line do: ``collections[0].merge``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like ``name``, or the only one that goes on after it; None if there is none."""
    longer = [other for other in known if other.startswith(name)]
    if len(longer) == 1:
        return longer[0]
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None
