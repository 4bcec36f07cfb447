"""Objects of a cloud store, through obstore: S3, Google Cloud Storage, Azure."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store, from_url

from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError, StorageError
from zcollection_engine.stores import credentials
from zcollection_engine.stores.base import ObjectInfo, StoredObject, refuse_etag
from zcollection_engine.stores.keys import Root, listing_offset
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.settle import WRITE_ID, Patience, TransientError, new_write_id, settled_write

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode, UpdateVersion
    from obstore.store import ClientConfig, RetryConfig

#: URL scheme to the one that obstore knows.
SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "abfs",
    "abfss": "abfss",
}

#: What obstore says of a request that the server understood and refused, other than for lateness or haste.
_REFUSED = re.compile(r"status code: (?:501|4(?!08|29)\d\d(?!.*RequestTimeout))", re.DOTALL)

_READ_RETRIES: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_NO_RETRIES: RetryConfig = {"max_retries": 0}
_TIMEOUTS: ClientConfig = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "10m"}


@dataclass(frozen=True, slots=True)
class _Clients:
    """Two clients of one bucket: obstore repeats failed reads by itself, conditional writes it must not."""

    reading: obstore.store.ObjectStore
    writing: obstore.store.ObjectStore


class _Runtime:
    """The process that first used obstore.

    Its threads do not survive a fork, while the child inherits their event queue: a request in the child would hang,
    and break the parent's.
    """

    def __init__(self) -> None:
        self._pid: int | None = None

    def claim(self) -> None:
        """Raise `StorageError` in a process forked after the first use."""
        if self._pid is None:
            self._pid = os.getpid()
        elif self._pid != os.getpid():
            raise StorageError(
                "obstore was used before this process was forked and cannot be used in it; start processes with "
                "the 'spawn' method, or set s3_client = 's3fs'"
            )


_RUNTIME = _Runtime()


class CloudStore:
    """A bucket, or a folder of one. Clients are made on first use, in the process that uses them.

    Parameters
    ----------
    url
        "s3://bucket/folder", likewise gs:// and az://; the text is taken literally, without percent decoding.
    options
        How to reach it.
    patience
        How often a conditional write without an answer is sent.

    Notes
    -----
    Google's store makes writes conditional on its own generation numbers; there `replace` reads the object's first.
    """

    conditional = True
    conditional_delete = False

    def __init__(self, url: str, options: StorageOptions | None = None, *, patience: Patience | None = None) -> None:
        scheme, separator, rest = url.partition("://")
        bucket, _, folder = rest.partition("/")
        if not separator or scheme not in SCHEMES or not bucket:
            raise InvalidInputError(f"{url!r} does not name a bucket; write s3://bucket/folder")
        self._bucket_url = f"{SCHEMES[scheme]}://{bucket}"
        self._root = Root.of(folder)
        self._url = f"{scheme}://{bucket}/{self._root.prefix}".rstrip("/")
        self._options = options or StorageOptions()
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._clients: _Clients | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._url, self._options, self._patience)

    def __repr__(self) -> str:
        return f"CloudStore({self._url!r})"

    @property
    def url(self) -> str:
        return self._url

    def get(self, key: str) -> StoredObject:
        path = self._root.absolute(key)
        with _reporting("read", self._name(key)):
            found = obstore.get(self._open().reading, path)
            return StoredObject(found.bytes().to_bytes(), self._info(found.meta))

    def head(self, key: str) -> ObjectInfo:
        path = self._root.absolute(key)
        with _reporting("describe", self._name(key)):
            return self._info(obstore.head(self._open().reading, path))

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Describe objects in order. All are held in memory: not every server lists in the order of the keys."""
        folder = self._root.absolute_prefix(prefix)
        first = listing_offset(folder, self._root.prefix + after)
        found = []
        with _reporting("list", self._name(prefix)):
            for batch in obstore.list(self._open().reading, folder[:-1] or None, offset=first):
                found += [self._info(meta) for meta in batch if meta["path"].startswith(folder)]
        return iter(sorted((info for info in found if info.key > after), key=lambda info: info.key))

    def create(self, key: str, data: bytes) -> str:
        return self._write("create", key, data, lambda _: "create")

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self._write("replace", key, data, lambda path: self._version(path, etag))

    def delete(self, key: str, etag: str | None = None) -> None:
        refuse_etag(self._url, key, etag)
        path = self._root.absolute(key)
        try:
            with _reporting("delete", self._name(key)):
                obstore.delete(self._open().reading, path)
        except NotFoundError:
            return

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def holder(self, name: str) -> str | None:
        return None

    def sweep(self, older_than: timedelta) -> int:
        """Do nothing: objects appear whole, and nothing else is written."""
        return 0

    def flush(self) -> None:
        """Do nothing: an answered write is durable."""

    def _write(self, verb: str, key: str, data: bytes, mode: Callable[[str], PutMode]) -> str:
        def send() -> str:
            with _reporting(verb, name):
                attributes = {WRITE_ID: write_id}
                result = obstore.put(self._open().writing, path, data, mode=mode(path), attributes=attributes)
                return _unquoted(result["e_tag"])

        def written() -> str | None:
            try:
                with _reporting("describe", name):
                    found = obstore.get(self._open().reading, path, options={"head": True})
                    return _unquoted(found.meta["e_tag"]) if found.attributes.get(WRITE_ID) == write_id else None
            except NotFoundError:
                return None

        path, name, write_id = self._root.absolute(key), self._name(key), new_write_id()
        return settled_write(send, written, key=name, patience=self._patience)

    def _version(self, path: str, etag: str) -> UpdateVersion:
        if not self._bucket_url.startswith("gs://"):
            return {"e_tag": f'"{etag}"'}
        present = obstore.head(self._open().reading, path)
        if _unquoted(present["e_tag"]) != etag:
            raise PreconditionFailedError(f"{path} has the ETag {_unquoted(present['e_tag'])}, not {etag}")
        return {"e_tag": present["e_tag"], "version": present["version"]}

    def _info(self, meta: ObjectMeta) -> ObjectInfo:
        key = self._root.relative(meta["path"])
        return ObjectInfo(key=key, size=meta["size"], etag=_unquoted(meta["e_tag"]), modified=meta["last_modified"])

    def _name(self, key: str) -> str:
        return f"{self._url}/{key}"

    def _open(self) -> _Clients:
        _RUNTIME.claim()
        with self._lock:
            if self._clients is None:
                self._clients = self._connect()
            return self._clients

    def _connect(self) -> _Clients:
        if not self._bucket_url.startswith("s3://"):
            return _Clients(
                from_url(self._bucket_url, client_options=_TIMEOUTS, retry_config=_READ_RETRIES),
                from_url(self._bucket_url, client_options=_TIMEOUTS, retry_config=_NO_RETRIES),
            )
        provider = credentials.credential_provider()
        return _Clients(
            _s3_client(self._bucket_url, self._options, provider, _READ_RETRIES),
            _s3_client(self._bucket_url, self._options, provider, _NO_RETRIES),
        )


def _rebuild(url: str, options: StorageOptions, patience: Patience) -> CloudStore:
    return CloudStore(url, options, patience=patience)


def _s3_client(
    url: str,
    options: StorageOptions,
    provider: credentials.BotocoreCredentials | None,
    retries: RetryConfig,
) -> S3Store:
    address = credentials.endpoint(options.endpoint_url)
    timeouts: ClientConfig = {**_TIMEOUTS}
    if address and address.startswith("http://"):
        timeouts["allow_http"] = True
    extra: dict[str, Any] = {"endpoint": address} if address else {}
    bucket = url.removeprefix("s3://")
    return S3Store(
        bucket,
        region=credentials.region(options.region),
        # A server of one's own rarely has a host name per bucket, and AWS's certificate covers no name with dots.
        virtual_hosted_style_request=not address and "." not in bucket,
        client_options=timeouts,
        retry_config=retries,
        credential_provider=provider,
        **extra,
    )


@contextmanager
def _reporting(verb: str, name: str) -> Iterator[None]:
    """Turn obstore's errors into ours."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageError(f"cannot {verb} {name}: {_words(error)}", key=name) from error
        if verb == "replace":
            raise PreconditionFailedError(f"{name} is gone", key=name) from error
        raise NotFoundError(f"there is no object {name}") from error
    except (AlreadyExistsError, PreconditionError) as error:
        raise PreconditionFailedError(f"cannot {verb} {name}: {_words(error)}", key=name) from error
    except InvalidPathError as error:
        raise StorageError(
            f"cannot {verb} {name}: {_words(error)}; set s3_client = 's3fs', which passes over such keys", key=name
        ) from error
    except (PermissionDeniedError, UnauthenticatedError, NotSupportedError) as error:
        raise StorageError(f"cannot {verb} {name}: {_words(error)}", key=name) from error
    except GenericError as error:
        kind = StorageError if _REFUSED.search(str(error)) else TransientError
        raise kind(f"cannot {verb} {name}: {_words(error)}", key=name) from error
    except (BaseError, OSError) as error:
        raise StorageError(f"cannot {verb} {name}: {_words(error)}", key=name) from error


def _words(error: BaseException) -> str:
    """Return an error's message without the dump of Rust structures that follows it."""
    return str(error).partition("\n\nDebug source")[0]


def _unquoted(etag: str | None) -> str:
    if etag is None:
        raise StorageError("the store gives no ETags; conditional writes are not possible")
    return etag.strip('"')
