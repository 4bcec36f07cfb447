"""Which collection an object belongs to. Pure functions, no I/O."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daemon.sources.base import ObjectRef
from zcollection_engine.stores.resolve import locate

#: Names that fsspec and its kin use for one and the same store.
_SCHEMES = {"": "file", "local": "file", "s3a": "s3", "s3n": "s3", "gcs": "gs"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a collection takes.

    Attributes
    ----------
    collection
        Its name.
    match
        Glob patterns, case-sensitive: on the key's last part, or on the whole key for a pattern with "/".
        "*" and "?" stay inside a part of the key, "**" crosses parts, "[...]" is one character of a set.
    """

    collection: str
    match: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Where an object goes, and why.

    Attributes
    ----------
    collection
        Name of the collection; None when the object is not for any.
    reason
        For people: the pattern that matched, or why the object is left alone.
    """

    collection: str | None
    reason: str


class Router:
    """Sends objects to collections; the first rule that matches wins.

    Parameters
    ----------
    rules
        In order of precedence.
    own
        URLs that the daemon itself writes to (collections, its state). What lies inside them is never input.
    """

    def __init__(self, rules: Sequence[Rule], own: Sequence[str]) -> None:
        self._rules = tuple(rules)
        self._patterns = tuple((rule.collection, _Pattern(text)) for rule in rules for text in rule.match)
        self._own = tuple((url, _canonical(url)) for url in own)

    def route(self, ref: ObjectRef) -> Route:
        """Tell which collection ``ref`` belongs to."""
        location = _canonical(ref.url)
        for url, own in self._own:
            if location == own or location.startswith(own.rstrip("/") + "/"):
                return Route(None, f"the daemon's own output: it lies inside {url}")
        return self._match(ref.key)

    def explain(self, key: str) -> str:
        """Describe for people what would happen to an object and which patterns were tried.

        ``key`` is a URL, or a key alone: then nothing can be said about the daemon's own output.
        """
        if "://" in key:
            bucket, key_in_bucket = locate(key)
            route = self.route(ObjectRef(url=key, bucket=bucket, key=key_in_bucket))
        else:
            key_in_bucket = key.lstrip("/")
            route = self._match(key_in_bucket)
        lines = [key, *self._attempts(key_in_bucket, until=route.collection)]
        goal = f"goes to collection {route.collection!r}" if route.collection is not None else "is left alone"
        return "\n".join([*lines, f"  {goal}: {route.reason}"])

    def _match(self, key: str) -> Route:
        for collection, pattern in self._patterns:
            if pattern.matches(key):
                return Route(collection, f"matched pattern {pattern.text!r} of collection {collection!r}")
        wanted = (f"{rule.collection!r} takes {', '.join(map(repr, rule.match))}" for rule in self._rules)
        return Route(None, f"no rule matches: {'; '.join(wanted) or 'there are no collections'}")

    def _attempts(self, key: str, *, until: str | None) -> Iterator[str]:
        for collection, pattern in self._patterns:
            matches = pattern.matches(key)
            yield f"  {pattern.text!r} of collection {collection!r}: {'yes' if matches else 'no'}"
            if matches and collection == until:
                return


class _Pattern:
    """One glob pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._whole_key = "/" in text
        self._expression = re.compile(_regex(text.lstrip("/")), re.DOTALL)

    def matches(self, key: str) -> bool:
        subject = key if self._whole_key else key.rpartition("/")[2]
        return self._expression.fullmatch(subject) is not None


_TOKENS = re.compile(r"(?P<folders>\*\*/)|(?P<any>\*\*)|(?P<part>\*)|(?P<one>\?)|(?P<set>\[!?\]?[^]/]*\])", re.DOTALL)
_WILDCARDS = {"folders": "(?:[^/]*/)*", "any": ".*", "part": "[^/]*", "one": "[^/]"}


def _regex(pattern: str) -> str:
    pieces, position = [], 0
    for token in _TOKENS.finditer(pattern):
        pieces.append(re.escape(pattern[position : token.start()]))
        kind = token.lastgroup or ""
        pieces.append(_character_set(token.group()) if kind == "set" else _WILDCARDS[kind])
        position = token.end()
    return "".join([*pieces, re.escape(pattern[position:])])


def _character_set(token: str) -> str:
    """Translate "[a-z]" or "[!a-z]"; a set never matches "/"."""
    negated = token.startswith("[!")
    members = token[2 if negated else 1 : -1]
    try:
        re.compile(f"[{_escape_members(members)}]")
    except re.error:
        return re.escape(token)
    return f"(?!/)[{'^' if negated else ''}{_escape_members(members)}]"


def _escape_members(members: str) -> str:
    return re.sub(r"([\\\[\]^&~|])", r"\\\1", members)


def _canonical(url: str) -> str:
    """Spell a URL so that whatever lies inside another one starts with it."""
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    scheme = scheme.rpartition("::")[2].lower()
    scheme = _SCHEMES.get(scheme, scheme)
    path = rest.lstrip("/")
    return f"file:///{posixpath.normpath('/' + path)[1:]}" if scheme == "file" else f"{scheme}://{path}"
