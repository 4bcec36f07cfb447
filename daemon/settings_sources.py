"""Where settings come from: TOML file < environment < command line, merged with a memory of who said what.

pydantic-settings' own environment source stops at the first value it cannot parse and does not tell which
variable held it; here every problem is kept, with its place, and all are reported together.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.settings_schema import EACH, KeyPath, Node, leaves, nearest, spelt

NESTING = "__"

# Kubernetes gives these to every container next to a Service called like the program.
_SERVICE_LINK = re.compile(r"(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)")

_OVERRIDE = re.compile(r"(?P<key>[^=\s]+?)\s*=(?P<value>.*)", re.DOTALL)
_PART = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


class Layers:
    """Settings values from all sources, the later over the earlier, and the problems met on the way.

    Parameters
    ----------
    root
        The tree of known keys.
    prefix
        What names of environment variables start with.

    Attributes
    ----------
    values
        The merged values, as TOML types.
    problems
        One line each.
    """

    def __init__(self, root: Node, prefix: str) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self._root = root
        self._prefix = prefix
        self._file = "settings"
        self._file_values: dict[str, Any] = {}
        self._origins: dict[KeyPath, str] = {}

    def origin(self, path: KeyPath) -> str:
        """Say who set the value at a path, the table that holds or lacks it, or the values in it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        below = [o for p, o in self._origins.items() if path and p[: len(path)] == path]
        file = [self._file] if not below or _holds(self._file_values, path) else []
        return " with ".join(dict.fromkeys([*file, *below]))

    def add_file(self, path: Path) -> None:
        """Read a TOML file. One that cannot be read is a problem."""
        self._file = str(path)
        try:
            self._file_values = tomllib.loads(path.read_text("utf-8"))
            self.values = copy.deepcopy(self._file_values)
        except FileNotFoundError:
            self.problems.append(f"{path}: no such file")
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self.problems.append(f"{path}: not UTF-8 at byte {error.start}")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{path}: not TOML: {error}")

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Take all variables that start with the prefix, tables before the keys inside them."""
        for name in sorted(environ, key=lambda n: (n.count(NESTING), n)):
            if not name.upper().startswith(self._prefix):
                continue
            rest, origin = name[len(self._prefix) :], f"environment variable {name}"
            path = _environment_path(self._root, rest)
            node = self._root.find(path) if path else None
            if node is not None:
                self._assign_text(path, node, environ[name], origin)
            elif not _SERVICE_LINK.fullmatch(rest):
                known = nearest(name.upper(), environment_names(self._root, self._prefix))
                self.problems.append(f"{origin}: unknown name{_hint(known)}")

    def add_overrides(self, overrides: Sequence[str]) -> None:
        """Take settings of the form ``section.key=value``; a value that is no TOML literal is a text."""
        for text in overrides:
            found = _OVERRIDE.fullmatch(text.strip())
            path = _spelt_path(found["key"]) if found else ()
            if found is None or not path:
                self.problems.append(f"command line: {text!r}: expected section.key=value")
                continue
            node = self._root.find(path)
            value = _literal(found["value"].strip(), keep_text=node is not None and node.is_text)
            self._assign(path, value, "command line")

    def _assign_text(self, path: KeyPath, node: Node, text: str, origin: str) -> None:
        value: Any = text
        if node.is_nullable and text == "null":
            value = None
        elif not node.is_text:
            try:
                value = json.loads(text)
            except ValueError as error:
                if node.is_container:
                    self.problems.append(f"{origin}: {spelt(path)}: not JSON: {error}")
                    return
        self._assign(path, value, origin)

    def _assign(self, path: KeyPath, value: Any, origin: str) -> None:
        *above, last = path
        holder: Any = self.values
        for depth, part in enumerate(path):
            if (reason := _no_place(holder, part)) is not None:
                where = spelt(path[:depth]) or "the root"
                self.problems.append(f"{origin}: {spelt(path)}: {where} {reason}")
                return
            if depth < len(above):
                holder = _entry(holder, part, {})
        holder[last] = _merged(_entry(holder, last, None), value)
        if not isinstance(value, dict):
            self._origins = {p: o for p, o in self._origins.items() if p[: len(path)] != path}
        self._origins[path] = origin


def environment_names(root: Node, prefix: str) -> list[str]:
    """Names of all environment variables that set something; a list of tables is one variable (JSON)."""
    names: dict[str, None] = {}
    for path, _ in leaves(root):
        plain = path[: path.index(EACH)] if EACH in path else path
        for length in range(1, len(plain) + 1):
            names[prefix + NESTING.join(str(part) for part in plain[:length]).upper()] = None
    return list(names)


def unknown_key(origin: str, path: KeyPath, known: Sequence[str]) -> str:
    """The line for a key that does not exist."""
    close = nearest(str(path[-1]), known)
    hint = _hint(f'"{close}"') if close else f"; known here: {', '.join(known)}"
    return f"{origin}: {spelt(path)}: unknown key{hint}"


def _hint(known: str | None) -> str:
    return f"; did you mean {known}?" if known else ""


def _environment_path(root: Node, rest: str) -> KeyPath:
    path: list[str | int] = []
    node: Node | None = root
    for part in rest.split(NESTING):
        if node is not None and node.item is not None and part.isdecimal():
            path.append(int(part))
        else:
            path.append(part if node is not None and node.is_free else part.lower())
        node = node.child(path[-1]) if node is not None else None
    return tuple(path)


def _spelt_path(key: str) -> KeyPath:
    if _PART.sub("", key):
        return ()
    return tuple(int(index) if index else name for name, index in _PART.findall(key))


def _literal(text: str, *, keep_text: bool) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    if len(parsed) > 1 or (keep_text and not isinstance(value, str)):
        return text
    return value


def _no_place(holder: Any, part: str | int) -> str | None:
    """Why ``holder`` cannot have an entry ``part``; None if it can."""
    if isinstance(part, int):
        if not isinstance(holder, list):
            return "is no list"
        return None if part < len(holder) else f"has {len(holder)} entries, numbered from 0"
    return None if isinstance(holder, dict) else "is no table"


def _holds(values: Any, path: KeyPath) -> bool:
    for part in path:
        if _no_place(values, part) is not None or (isinstance(values, dict) and part not in values):
            return False
        values = values[part]
    return True


def _entry(holder: Any, part: str | int, absent: Any) -> Any:
    return holder[part] if isinstance(part, int) else holder.setdefault(part, absent)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new
