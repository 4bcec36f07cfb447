"""Objects of S3 through s3fs, for who prefers or needs that client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cached_property
from typing import Any

from botocore.exceptions import ConnectionError as BotocoreConnectionError
from botocore.exceptions import HTTPClientError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError, StorageError
from zcollection_engine.stores import credentials
from zcollection_engine.stores.base import ObjectInfo, StoredObject, refuse_etag
from zcollection_engine.stores.keys import Root, is_key, listing_offset
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.settle import WRITE_ID, Patience, TransientError, new_write_id, settled_write

_SCHEMES = ("s3", "s3a")
_CONFLICTS = (409, 412)
_ONE_ATTEMPT = {"retries": {"total_max_attempts": 1}}
_BUSY = (500, 502, 503, 504)
_NO_ANSWER = (HTTPClientError, BotocoreConnectionError, ConnectionError, TimeoutError)


class _S3(S3FileSystem):  # type: ignore[misc]
    """s3fs with whole responses: an object's bytes and its version from one request."""

    async def _fetch(self, bucket: str, key: str) -> tuple[bytes, dict[str, Any]]:
        response = await self._call_s3("get_object", Bucket=bucket, Key=key)
        async with response["Body"] as body:
            return await body.read(), response

    fetch = sync_wrapper(_fetch)


class _S3Once(_S3):
    """The same for conditional writes, which are repeated by us (see `settled_write`)."""

    retries = 1


class S3FilesystemStore:
    """A bucket, or a folder of one.

    Parameters
    ----------
    url
        "s3://bucket/folder"; the text is taken literally, without percent decoding.
    options
        How to reach it.
    patience
        How often a conditional write without an answer is sent.
    """

    conditional = True
    conditional_delete = False

    def __init__(self, url: str, options: StorageOptions | None = None, *, patience: Patience | None = None) -> None:
        scheme, separator, rest = url.partition("://")
        self._bucket, _, folder = rest.partition("/")
        if not separator or scheme not in _SCHEMES or not self._bucket:
            raise InvalidInputError(f"{url!r} does not name a bucket; write s3://bucket/folder")
        self._root = Root.of(folder)
        self._url = f"{scheme}://{self._bucket}/{self._root.prefix}".rstrip("/")
        self._options = options or StorageOptions()
        self._patience = patience or Patience()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._url, self._options, self._patience)

    def __repr__(self) -> str:
        return f"S3FilesystemStore({self._url!r})"

    @property
    def url(self) -> str:
        return self._url

    def get(self, key: str) -> StoredObject:
        path = self._root.absolute(key)
        with _reporting("read", self._name(key)):
            data, response = self._fs(_S3).fetch(self._bucket, path)
        return StoredObject(data, _info(key, response, response["ContentLength"]))

    def head(self, key: str) -> ObjectInfo:
        response = self._call("describe", key, "head_object")
        return _info(key, response, response["ContentLength"])

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Describe objects in order. All are held in memory: not every server lists in the order of the keys."""
        folder = self._root.absolute_prefix(prefix)
        request = {"Bucket": self._bucket, "Prefix": folder}
        first = listing_offset(folder, self._root.prefix + after)
        if first is not None:
            request["StartAfter"] = first
        found = []
        for entry in self._pages(prefix, request):
            key = self._root.relative(entry["Key"])
            if key > after and is_key(key):
                found.append(_info(key, entry, entry["Size"]))
        return iter(sorted(found, key=lambda info: info.key))

    def create(self, key: str, data: bytes) -> str:
        return self._write("create", key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self._write("replace", key, data, IfMatch=f'"{etag}"')

    def delete(self, key: str, etag: str | None = None) -> None:
        refuse_etag(self._url, key, etag)
        try:
            self._call("delete", key, "delete_object")
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

    def _write(self, verb: str, key: str, data: bytes, **condition: str) -> str:
        def send() -> str:
            metadata = {WRITE_ID: write_id}
            response = self._call(verb, key, "put_object", kind=_S3Once, Body=data, Metadata=metadata, **condition)
            return str(response["ETag"]).strip('"')

        def written() -> str | None:
            try:
                response = self._call("describe", key, "head_object")
            except NotFoundError:
                return None
            return response["ETag"].strip('"') if response["Metadata"].get(WRITE_ID) == write_id else None

        write_id = new_write_id()
        # aiohttp repeats a PUT whose connection was dropped, and cannot be told not to.
        return settled_write(send, written, key=self._name(key), patience=self._patience, repeats=True)

    def _call(self, verb: str, key: str, method: str, kind: type[_S3] = _S3, **request: Any) -> dict[str, Any]:
        path = self._root.absolute(key)
        with _reporting(verb, self._name(key)):
            response: dict[str, Any] = self._fs(kind).call_s3(method, Bucket=self._bucket, Key=path, **request)
        return response

    def _pages(self, prefix: str, request: dict[str, str]) -> Iterator[dict[str, Any]]:
        while True:
            with _reporting("list", self._name(prefix)):
                page = self._fs(_S3).call_s3("list_objects_v2", **request)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            request = request | {"ContinuationToken": page["NextContinuationToken"]}

    def _fs(self, kind: type[_S3]) -> _S3:
        """Return this process's client: fsspec keeps one for equal arguments, and another after a fork."""
        return kind(
            **self._place,
            config_kwargs=_ONE_ATTEMPT if kind is _S3Once else {},
            use_listings_cache=False,
        )

    @cached_property
    def _place(self) -> dict[str, Any]:
        return {
            "endpoint_url": credentials.endpoint(self._options.endpoint_url),
            "client_kwargs": {"region_name": credentials.region(self._options.region)},
        }

    def _name(self, key: str) -> str:
        return f"{self._url}/{key}"


def _rebuild(url: str, options: StorageOptions, patience: Patience) -> S3FilesystemStore:
    return S3FilesystemStore(url, options, patience=patience)


def _info(key: str, entry: dict[str, Any], size: int) -> ObjectInfo:
    return ObjectInfo(key=key, size=size, etag=entry["ETag"].strip('"'), modified=entry["LastModified"])


@contextmanager
def _reporting(verb: str, name: str) -> Iterator[None]:
    """Turn s3fs's errors into ours, by the server's answer: the classes that s3fs gives them differ by server."""
    try:
        yield
    except Exception as error:
        raise _translated(error, verb, name) from error


def _translated(error: Exception, verb: str, name: str) -> Exception:
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    words = f"cannot {verb} {name}: {error}"
    if isinstance(error, FileExistsError) or status in _CONFLICTS:
        return PreconditionFailedError(words, key=name)
    if isinstance(error, FileNotFoundError) and response.get("Error", {}).get("Code") != "NoSuchBucket":
        if verb == "replace":
            return PreconditionFailedError(f"{name} is gone", key=name)
        return NotFoundError(f"there is no object {name}")
    if status in _BUSY or isinstance(error, _NO_ANSWER):
        return TransientError(words, key=name)
    return StorageError(words, key=name)
