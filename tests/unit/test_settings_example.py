"""`settings.example.toml` says what the code does: every key, with its default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.settings import Settings, load_settings
from daemon.settings_schema import EACH, KeyPath, Node, without_unknown

EXAMPLE = Path(__file__).parents[2] / "settings.example.toml"

OPTIONAL = re.compile(r"^#(?=[a-z_0-9]+ = )", re.MULTILINE)
ALTERNATIVE = re.compile(r"^#or ", re.MULTILINE)
KEY_LINE = re.compile(r"^#?(?:or )?(?P<key>[a-z_0-9]+) = ")


def alternatives() -> Iterator[str]:
    """The file with all optional keys set; the same with each alternative in place of the line above it."""
    lines = OPTIONAL.sub("", EXAMPLE.read_text()).splitlines()
    yield "\n".join(lines)
    for number, line in enumerate(lines):
        if ALTERNATIVE.match(line):
            key = line.removeprefix("#or ").partition(" = ")[0]
            above = max(i for i in range(number) if lines[i].startswith(f"{key} = "))
            yield "\n".join([*lines[:above], ALTERNATIVE.sub("", line), *lines[above + 1 :]])


def fields_by_section(node: Node, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key of every section, all kinds of a choice included; tables and lists are keys too."""
    item = node.item
    if item is not None:
        yield from fields_by_section(item, (*path, EACH))
    for name, child in node.fields().items():
        yield (*path, name)
        yield from fields_by_section(child, (*path, name))


def keys_in(node: Node, value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(value, list) and node.item is not None:
        for entry in value:
            yield from keys_in(node.item, entry, (*path, EACH))
    elif isinstance(value, dict):
        for name, below in value.items():
            yield (*path, name)
            child = node.fields(value).get(name)
            if child is not None and not child.is_free:
                yield from keys_in(child, below, (*path, name))


def optional_values(node: Node, value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node, Any]]:
    """Every value below ``value`` whose key need not be set."""
    if isinstance(value, list) and node.item is not None:
        for entry in value:
            yield from optional_values(node.item, entry, (*path, EACH))
        return
    required = node.choices[value[node.tag]].schema["required"] if node.choices else node.schema.get("required", ())
    for name, child in node.fields(value).items():
        if name in value and (child.fields() or (child.item is not None and child.item.fields())):
            yield from optional_values(child, value[name], (*path, name))
        elif name in value and name not in required:
            yield (*path, name), child, value[name]


def test_the_file_loads_as_it_stands() -> None:
    settings = load_settings(EXAMPLE, environ={})
    assert {source.type for source in settings.sources} == {"sqs", "watch"}
    assert [collection.name for collection in settings.collections] == ["s6a"]


@pytest.mark.parametrize("number", range(len(list(alternatives()))))
def test_the_file_loads_with_its_optional_keys_and_each_alternative(tmp_path: Path, number: int) -> None:
    text = list(alternatives())[number]
    path = tmp_path / "settings.toml"
    path.write_text(text)
    load_settings(path, environ={})


def test_every_key_is_in_the_file_and_no_other() -> None:
    root = Node.of(Settings)
    there: set[KeyPath] = set()
    for text in alternatives():
        values = tomllib.loads(text)
        assert without_unknown(root, values)[1] == []
        there |= set(keys_in(root, values))
    assert set(fields_by_section(root)) - there == set()


def test_the_stated_defaults_are_those_of_the_code() -> None:
    values = tomllib.loads(next(alternatives()))
    checked = 0
    for path, node, stated in optional_values(Node.of(Settings), values):
        default = node.schema.get("default", {} if node.is_free else None)
        if default is not None:
            assert (path, stated) == (path, default)
            checked += 1
    assert checked > 30


def test_optional_keys_are_behind_a_comment_sign_and_required_ones_are_not() -> None:
    root = Node.of(Settings)
    live = tomllib.loads(EXAMPLE.read_text())
    set_though_optional = [
        path for path, _, _ in optional_values(root, live) if path not in {("sources",), ("collections",)}
    ]
    assert set_though_optional == []


def test_a_key_without_default_is_said_to_be_not_set() -> None:
    nullable = {
        str(path[-1])
        for path, node, _ in optional_values(Node.of(Settings), tomllib.loads(next(alternatives())))
        if node.is_nullable
    }
    assert {"endpoint_url", "region", "settle_seconds", "schema_file", "chunk_rows", "axis"} <= nullable
    comment = ""
    said = set()
    for line in EXAMPLE.read_text().splitlines():
        if found := KEY_LINE.match(line):
            if "not set:" in comment.lower():
                said.add(found["key"])
        else:
            comment = f"{comment} {line[2:]}" if line.startswith("# ") else ""
    assert nullable <= said


def test_every_key_has_a_description_in_the_code() -> None:
    root = Node.of(Settings)
    bare = []
    for path in fields_by_section(root):
        node: Node | None = root
        for part in path:
            node = node.item if node is not None and part == EACH else node and node.fields().get(str(part))
        assert node is not None
        if not node.schema.get("description"):
            bare.append(path)
    assert bare == []
