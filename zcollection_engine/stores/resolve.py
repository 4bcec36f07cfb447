"""From a URL to the store behind it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.stores import memory, posix
from zcollection_engine.stores.base import ObjectStore, StoredObject
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.posix import PosixStore

__all__ = [
    "StorageOptions",
    "fetch",
    "join_url",
    "kept_store",
    "locate",
    "normalised_url",
    "open_store",
    "split_url",
]

_S3 = ("s3", "s3a")
_OBSTORE = ("gs", "gcs", "az", "azure", "abfs", "abfss")

#: Stores kept open by `kept_store`: a daemon reads granules from a few buckets or folders.
_KEPT = 32


def normalised_url(url: str) -> str:
    """Return the one spelling of a URL that stores use: no trailing slash, a local path as an absolute file:// URL.

    Paths and keys are taken literally: "%20" and " " are different names.

    Raises
    ------
    InvalidInputError
        The URL is empty.
    """
    if not url:
        raise InvalidInputError("the URL of a store is empty; name a folder or, for example, s3://bucket/folder")
    if "://" not in url:
        return posix.PROTOCOL + os.path.normpath(Path(url).expanduser().absolute())
    if url.startswith(posix.PROTOCOL):
        return posix.PROTOCOL + os.path.normpath(Path(url.removeprefix(posix.PROTOCOL)).absolute())
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rstrip('/')}"


def join_url(root: str, key: str) -> str:
    """Return the URL of the object ``key`` of the store at ``root``."""
    return f"{root}{key}" if root.endswith("/") else f"{root}/{key}"


def locate(url: str) -> tuple[str, str]:
    """Return the bucket and the key of the object at ``url``, as the identities of granules have them.

    S3 URLs have the bucket's bare name, as events have it. Other stores keep their scheme, so that two
    buckets of one name in two clouds stay two. Local files have no bucket, their key is the absolute path without its
    leading slash.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "", url.lstrip("/")
    if scheme in {"file", "local"}:
        return "", rest.lstrip("/")
    host, _, key = rest.partition("/")
    return (host if scheme in {"s3", "s3a", "s3n"} else f"{scheme}://{host}"), key


def split_url(url: str) -> tuple[str, str]:
    """Split an object's URL into the root of a store for `kept_store`, and the key.

    The root is the bucket of a cloud store, else the folder that holds the object.

    Raises
    ------
    InvalidInputError
        The URL names no object.
    """
    scheme, _, rest = normalised_url(url).partition("://")
    root, _, key = rest.partition("/") if scheme in (*_S3, *_OBSTORE, "memory") else rest.rpartition("/")
    if not key or (not root and scheme != "file"):
        raise InvalidInputError(f"{url!r} names no object; its URL has a store and a key, as in s3://bucket/key")
    return f"{scheme}://{root or '/'}", key


def open_store(url: str, options: StorageOptions | None = None) -> ObjectStore:
    """Return the store at a URL. Nothing is read or made yet.

    Parameters
    ----------
    url
        A path or a ``file://`` URL, ``memory://name``, ``s3://bucket/folder``, ``gs://``, ``az://``, or any other URL
        that fsspec opens; those others have no conditional writes (`ObjectStore.conditional`).
    options
        How to reach an S3 service.

    Raises
    ------
    InvalidInputError
        The protocol is unknown, or the package for it is missing.
    """
    chosen = options or StorageOptions()
    root = normalised_url(url)
    scheme = root.partition("://")[0]
    if root.startswith(posix.PROTOCOL):
        return PosixStore(root)
    if root.startswith(memory.PROTOCOL):
        return MemoryStore(root)
    if scheme in _S3 and chosen.s3_client == "s3fs":
        from zcollection_engine.stores.s3filesystem import S3FilesystemStore

        return S3FilesystemStore(root, chosen)
    if scheme in _S3 or scheme in _OBSTORE:
        from zcollection_engine.stores.objects import CloudStore

        return CloudStore(root, chosen)
    from zcollection_engine.stores.filesystem import FilesystemStore

    return FilesystemStore(root)


@lru_cache(maxsize=_KEPT)
def kept_store(root: str, options: StorageOptions) -> ObjectStore:
    """Return the store at ``root``, as `split_url` gives it, which this process keeps open."""
    return open_store(root, options)


def fetch(url: str, options: StorageOptions | None = None) -> StoredObject:
    """Read one object by its full URL, through a store that is kept open.

    Raises
    ------
    NotFoundError
        There is no such object.
    InvalidInputError
        The URL names no object, or no store that can be opened.
    StorageError
        The environment failed.
    """
    root, key = split_url(url)
    return kept_store(root, options or StorageOptions()).get(key)
