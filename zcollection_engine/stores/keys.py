"""Names of objects: which ones the engine accepts, and how a store below a prefix spells them.

A key that one backend would take and another would change ("a//b", "a/../b", a trailing "/", a backslash) is refused
everywhere, so that a key always names the same object.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcollection_engine.errors import InvalidInputError

#: Characters whose predecessor is one that a key may have inside a part's name.
_WITH_PREDECESSOR = frozenset(map(chr, range(ord("1"), ord("~") + 1))) - {"\\", "]"}


def check_key(key: str) -> str:
    """Return ``key`` when every store can hold it unchanged.

    Raises
    ------
    InvalidInputError
        It is empty, has an empty, "." or ".." part, or holds a control character or a backslash.
    """
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise InvalidInputError(
            f"the key {key!r} has an empty, '.' or '..' part, which stores do not agree on; rename the object"
        )
    if any(character < " " or character in "\x7f\\" for character in key):
        raise InvalidInputError(f"the key {key!r} holds a control character or a backslash; rename the object")
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` when it is empty or names a folder ("a/b/"); raises `InvalidInputError`."""
    if prefix:
        if not prefix.endswith("/"):
            raise InvalidInputError(f"the prefix {prefix!r} must end with '/': only whole folders are listed")
        check_key(prefix[:-1])
    return prefix


def is_key(key: str) -> bool:
    """Tell whether a name found in a foreign store is one that the engine can use."""
    try:
        check_key(key)
    except InvalidInputError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Root:
    """A folder of a larger space of keys.

    Attributes
    ----------
    prefix
        Empty, or the folder's path with a trailing "/".
    """

    prefix: str

    @classmethod
    def of(cls, path: str) -> Root:
        """Return the root at ``path``, written with or without slashes around it."""
        stripped = path.strip("/")
        return cls(check_prefix(f"{stripped}/" if stripped else ""))

    def absolute(self, key: str) -> str:
        """Spell a key from the larger space's root; raises `InvalidInputError` for a bad one."""
        return self.prefix + check_key(key)

    def absolute_prefix(self, prefix: str) -> str:
        """Spell a folder from the larger space's root; raises `InvalidInputError` for a bad one."""
        return self.prefix + check_prefix(prefix)

    def relative(self, key: str) -> str:
        """Undo `absolute`."""
        return key[len(self.prefix) :]


def listing_offset(prefix: str, after: str) -> str | None:
    """Return a name behind which a server may start its listing of ``prefix``, for all that sorts behind ``after``.

    Servers sort the flat text of their keys ("a b" < "a/c"), or walk a tree ("a/c" before "a b"), where they also pass
    over the whole folder that is named (both SeaweedFS). Cut before its first character that sorts under "/",
    ``after`` has the same place in both orders; a little before that is no folder's name. None means: from the start
    of the prefix.
    """
    if not after.startswith(prefix):
        return None
    tail = after[len(prefix) :]
    end = next((i for i, character in enumerate(tail) if character < "/"), len(tail))
    for position in range(end - 1, -1, -1):
        if tail[position] in _WITH_PREDECESSOR:
            return f"{prefix}{tail[:position]}{chr(ord(tail[position]) - 1)}~"
    return None
