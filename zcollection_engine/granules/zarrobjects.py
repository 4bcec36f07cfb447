"""The objects of a Zarr granule, wherever they lie: in a zip archive, or below a folder of a store.

What is read is bounded beforehand, by the sizes that a listing or an archive's directory declares.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from zcollection_engine.errors import EngineError, InvalidGranuleError, NotFoundError, StorageError
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.keys import is_key

#: Objects of one granule above which a folder or archive is taken for something else.
MAX_OBJECTS = 1 << 20

PARALLEL_REQUESTS = 16

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ROOTS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")


class Objects(Protocol):
    """Objects below the root of one Zarr hierarchy."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every object by its key relative to the root."""

    def read(self, keys: Iterable[str]) -> Generator[bytes]:
        """Return objects in the order of their keys, all of which must be among `sizes`; close it when it ends early.

        Raises
        ------
        InvalidGranuleError
            Reason "unreadable".
        StorageError
            The environment failed, or an object was removed meanwhile.
        """


@contextmanager
def reporting(what: str, *, name: str) -> Iterator[None]:
    """Turn whatever a library raises over bad data into `InvalidGranuleError` with the reason "unreadable".

    zarr, numcodecs and the codecs behind them promise no classes of errors for data that lie.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise InvalidGranuleError(
            f"{name}: {what} cannot be read ({words[:500]}); it is damaged, have the granule delivered again",
            reason="unreadable",
            granule=name,
        ) from error


class ZipObjects:
    """A zip archive in memory whose root, or one folder in its root, is that of a Zarr hierarchy.

    Parameters
    ----------
    data
        The archive, stored or deflated.
    max_nbytes
        Bytes that all objects together may declare.
    name
        What errors call it.

    Raises
    ------
    InvalidGranuleError
        Reasons "empty_file", "not_zarr", "truncated", "unsafe_path", "too_large", "unreadable".
    """

    def __init__(self, data: bytes, *, max_nbytes: int, name: str) -> None:
        self._name = name
        _check_is_zip(data, name)
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except zipfile.BadZipFile as error:
            raise InvalidGranuleError(
                f"{name}: truncated: the directory of the archive, which stands at its end, is missing or damaged "
                f"({error}); it was cut on the way, deliver it again",
                reason="truncated",
                granule=name,
            ) from error
        except (OSError, ValueError, EOFError, OverflowError, NotImplementedError, RuntimeError) as error:
            raise InvalidGranuleError(
                f"{name}: the archive's directory cannot be read ({error}); deliver the granule again",
                reason="unreadable",
                granule=name,
            ) from error
        members = _objects(self._archive.infolist(), name)
        check_stored((info.file_size for info in members.values()), max_nbytes=max_nbytes, name=name)
        root = _root(members, name)
        self._members = {key.removeprefix(root): info for key, info in members.items() if key.startswith(root)}

    @property
    def sizes(self) -> Mapping[str, int]:
        return {key: info.file_size for key, info in self._members.items()}

    def read(self, keys: Iterable[str]) -> Generator[bytes]:
        for key in keys:
            with reporting(f"the object {key!r} in the archive", name=self._name):
                info = self._members[key]
                with self._archive.open(info) as member:
                    # An unbounded read would inflate a whole piece of the input before it looks at the declared size.
                    data = member.read(info.file_size)
                if len(data) != info.file_size:
                    raise EOFError(f"{len(data)} bytes in place of {info.file_size}")
            yield data


def _check_is_zip(data: bytes, name: str) -> None:
    if not data:
        raise InvalidGranuleError(
            f"{name}: the file is empty (0 bytes); the delivery failed, deliver it again",
            reason="empty_file",
            granule=name,
        )
    if not data.startswith(_ZIP):
        raise InvalidGranuleError(
            f"{name}: neither a zip archive of a Zarr store nor the marker of a Zarr directory: its {len(data)} bytes "
            f"begin with {data[:16]!r}; keep such objects out of the collection's 'match', or correct granule.format "
            "or granule.marker",
            reason="not_zarr",
            granule=name,
        )


def _objects(members: Iterable[zipfile.ZipInfo], name: str) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's members without its folders. Of several with one name the last one counts: writers that
    replace an object append it once more.
    """
    objects = {}
    for info in members:
        if not is_key(info.filename.removesuffix("/")):
            raise InvalidGranuleError(
                f"{name}: the archive has an object {info.filename!r}, whose name leads outside it or cannot be "
                "stored; it is not a Zarr store",
                reason="unsafe_path",
                granule=name,
            )
        if info.is_dir():
            continue
        if info.compress_type not in _METHODS:
            raise InvalidGranuleError(
                f"{name}: the object {info.filename!r} in the archive is compressed by method {info.compress_type}; "
                "only stored and deflated objects are read, make the archive anew",
                reason="unreadable",
                granule=name,
            )
        objects[info.filename] = info
    _check_count(len(objects), name)
    return objects


def _check_count(count: int, name: str) -> None:
    if count > MAX_OBJECTS:
        raise InvalidGranuleError(
            f"{name}: there are more than {MAX_OBJECTS} objects; keep all that is not the granule's out of its folder",
            reason="too_large",
            granule=name,
        )


def check_stored(sizes: Iterable[int], *, max_nbytes: int, name: str) -> None:
    """Refuse objects that take more than ``max_nbytes`` together, before they are decoded.

    Raises
    ------
    InvalidGranuleError
        Reason "too_large".
    """
    total = sum(sizes)
    if total > max_nbytes:
        raise InvalidGranuleError(
            f"{name}: its objects take {total} bytes before they are decoded, more than the limit of {max_nbytes}; "
            "exclude variables, or raise max_nbytes if the granule is sound",
            reason="too_large",
            granule=name,
        )


def _root(members: Iterable[str], name: str) -> str:
    """Return the folder of the hierarchy's root: empty, or one with a trailing "/"."""
    folders = {key.rpartition("/")[0] for key in members if key.rpartition("/")[2] in _ROOTS}
    if "" in folders:
        return ""
    found = sorted(folder for folder in folders if "/" not in folder)
    if len(found) != 1:
        what = f"the roots of {len(found)}: {', '.join(found[:5])}" if found else "no root of any"
        raise InvalidGranuleError(
            f"{name}: the archive must have one Zarr hierarchy, in its root or in one folder there; it has {what}",
            reason="not_zarr",
            granule=name,
        )
    return f"{found[0]}/"


class FolderObjects:
    """Objects below a folder of a store, as one listing tells.

    Parameters
    ----------
    store
        Any store.
    folder
        Path of the granule's root in it, with a trailing "/"; empty for the store's own.
    name
        What errors call the granule.

    Raises
    ------
    InvalidGranuleError
        Reason "too_large".
    """

    def __init__(self, store: ObjectStore, folder: str, *, name: str) -> None:
        self._store = store
        self._folder = folder
        self._name = name
        self._sizes: dict[str, int] = {}
        for info in store.list(folder):
            self._sizes[info.key.removeprefix(folder)] = info.size
            _check_count(len(self._sizes), name)

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def read(self, keys: Iterable[str]) -> Generator[bytes]:
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            yield from pool.map(self._get, keys)

    def _get(self, key: str) -> bytes:
        try:
            return self._store.get(self._folder + key).data
        except NotFoundError as error:
            raise StorageError(
                f"{self._name}: the object {key!r} was removed while the granule was read; it will be read again",
                key=self._folder + key,
            ) from error
