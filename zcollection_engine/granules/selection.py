"""Which variables of a granule are taken, and what the collection calls them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.schema import PROVENANCE

_TOKENS = re.compile(r"/\*\*/|\*\*|\*|\?|[^*?/]+|/")
_TRANSLATIONS = {"/**/": "/(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

#: Names that Zarr keeps for itself, or that a file system reads as something else.
_FORBIDDEN_PARTS = frozenset({"", ".", "..", "zarr.json"})


def collection_path(path: str, axis: str) -> str:
    """Return what a collection calls a granule's variable when it is not renamed.

    Parameters
    ----------
    path
        Absolute path of the variable in the granule.
    axis
        Absolute path of the axis variable.

    Returns
    -------
    str
        The path relative to the axis's group ("ku/x" for "/data_01/ku/x" beside "/data_01/time"); for a
        variable outside that group the path from the root ("aux/x").
    """
    base = axis.rpartition("/")[0] + "/"
    return path.removeprefix(base).removeprefix("/")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a glob on absolute variable paths: "*" and "?" stay inside a group, "**" crosses groups.

    Raises
    ------
    InvalidInputError
        If the pattern does not begin with "/".
    """
    if not pattern.startswith("/"):
        raise InvalidInputError(
            f"the pattern {pattern!r} must begin with '/', it is matched against the whole path of a variable; "
            f"'/**/{pattern}' would match in every group"
        )
    parts = (_TRANSLATIONS.get(token) or re.escape(token) for token in _TOKENS.findall(pattern))
    return re.compile("".join(parts), re.DOTALL)


@dataclass(frozen=True)
class Names:
    """Collection paths by absolute variable path, and by name of a global attribute."""

    variables: Mapping[str, str]
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """A `GranuleSpec` ready for use.

    Raises
    ------
    InvalidInputError
        At construction, for a pattern or axis without leading "/", or a new name that cannot be stored.
    """

    spec: GranuleSpec

    def __post_init__(self) -> None:
        if not self.spec.axis.startswith("/"):
            raise InvalidInputError(
                f"the axis {self.spec.axis!r} must be an absolute path in the granule, such as '/{self.spec.axis}'"
            )
        for pattern in (*self.spec.include, *self.spec.exclude):
            compile_pattern(pattern)
        for source, target in self.spec.rename.items():
            _check_name(target, f"the new name of {source!r}")

    @cached_property
    def _included(self) -> tuple[re.Pattern[str], ...]:
        group = self.spec.axis.rpartition("/")[0]
        patterns = tuple(map(compile_pattern, self.spec.include))
        return patterns or (re.compile(re.escape(group) + "/.*", re.DOTALL),)

    @cached_property
    def _excluded(self) -> tuple[re.Pattern[str], ...]:
        return tuple(map(compile_pattern, self.spec.exclude))

    def takes(self, path: str) -> bool:
        """Tell whether the variable with this absolute path is taken; the axis always is."""
        if path == self.spec.axis:
            return True
        included = any(pattern.fullmatch(path) for pattern in self._included)
        return included and not any(pattern.fullmatch(path) for pattern in self._excluded)

    def choose(self, paths: Iterable[str], *, name: str) -> Names:
        """Choose among a granule's variables and give each its collection path, also to the row variables
        that come from global attributes.

        Parameters
        ----------
        paths
            Absolute paths of all the granule's variables; the axis must be among them.
        name
            What errors call the granule.

        Raises
        ------
        InvalidGranuleError
            for names that a collection keeps for itself.
        """
        variables = {path: self._target(collection_path(path, self.spec.axis)) for path in paths if self.takes(path)}
        attributes = {attribute: self._target(attribute) for attribute in self.spec.attributes}
        origins = [(target, f"variable {path}") for path, target in variables.items()]
        origins += [(target, f"global attribute {attribute!r}") for attribute, target in attributes.items()]
        _check_targets(origins, name)
        return Names(variables, attributes)

    def _target(self, path: str) -> str:
        target = self.spec.rename.get(path, path)
        return target.replace("/", "_") if self.spec.flat else target


def _check_targets(origins: list[tuple[str, str]], name: str) -> None:
    owners: dict[str, str] = {}
    for target, origin in origins:
        _check_name(target, f"{name}: the name of {origin}")
        if target in owners:
            raise InvalidGranuleError(
                f"{name}: {owners[target]} and {origin} would both be {target!r} in the collection; exclude one of "
                "them or rename it",
                reason="name_collision",
                granule=name,
            )
        owners[target] = origin
    for target, origin in origins:
        for group in _groups(target):
            if group in owners:
                raise InvalidGranuleError(
                    f"{name}: {owners[group]} would be {group!r} in the collection, which is also the group of "
                    f"{origin} ({target!r}); exclude one of them or rename it",
                    reason="name_collision",
                    granule=name,
                )


def _groups(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _check_name(path: str, what: str) -> None:
    if path == PROVENANCE:
        raise InvalidGranuleError(
            f"{what} is {path!r}, which is reserved for the origin of each row; rename it",
            reason="reserved_name",
        )
    for part in path.split("/"):
        if part in _FORBIDDEN_PARTS or part.startswith("__"):
            raise InvalidGranuleError(
                f"{what} is {path!r}; Zarr cannot store a part named {part!r}, rename it",
                reason="reserved_name",
            )
