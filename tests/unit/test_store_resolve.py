"""From URLs to stores."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations
from hypothesis import given
from hypothesis import strategies as st

from zcollection_engine.errors import InvalidInputError, NotFoundError
from zcollection_engine.stores.filesystem import FilesystemStore
from zcollection_engine.stores.keys import is_key
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.objects import CloudStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.stores.resolve import (
    StorageOptions,
    fetch,
    join_url,
    normalised_url,
    open_store,
    split_url,
)
from zcollection_engine.stores.s3filesystem import S3FilesystemStore


@pytest.mark.parametrize(
    ("url", "kind", "root"),
    [
        ("/data/a b%20c", PosixStore, "file:///data/a b%20c"),
        ("file:///data/x/", PosixStore, "file:///data/x"),
        ("file:///data//x/../y", PosixStore, "file:///data/y"),
        ("memory://name/folder/", MemoryStore, "memory://name/folder"),
        ("s3://bucket", CloudStore, "s3://bucket"),
        ("s3://bucket/a b/%20/", CloudStore, "s3://bucket/a b/%20"),
        ("gs://bucket/x", CloudStore, "gs://bucket/x"),
        ("az://container/x", CloudStore, "az://container/x"),
    ],
)
def test_a_url_opens_its_kind_of_store(url: str, kind: type, root: str) -> None:
    store = open_store(url)
    assert type(store) is kind
    assert store.url == root


def test_a_bare_path_is_taken_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("incoming/").url == f"file://{tmp_path}/incoming"
    monkeypatch.setenv("HOME", "/home/someone")
    assert normalised_url("~/x") == "file:///home/someone/x"


def test_s3fs_serves_s3_when_chosen() -> None:
    assert type(open_store("s3://bucket/x", StorageOptions(s3_client="s3fs"))) is S3FilesystemStore


def test_any_other_protocol_goes_through_fsspec(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    store = open_store(f"local://{tmp_path}")
    assert type(store) is FilesystemStore
    assert not store.conditional
    assert store.get("x").data == b"1"


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"'s4://bucket/x'.*no protocol 's4'.*install"):
        open_store("s4://bucket/x")


@pytest.fixture
def missing_driver() -> Iterator[str]:
    name = "driverless"
    fsspec.register_implementation(name, "no_such_module.FileSystem", errtxt="install no-such-module for driverless")
    yield name
    del known_implementations[name]


def test_a_missing_driver_is_named(missing_driver: str) -> None:
    with pytest.raises(InvalidInputError, match=r"'driverless://host/x'.*install no-such-module"):
        open_store(f"{missing_driver}://host/x")


@pytest.mark.parametrize("url", ["", "s3://", "s3:///x", "gs://"])
def test_a_url_without_a_place_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match=r"URL|bucket"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("s3://bucket/a/b c.nc", "s3://bucket", "a/b c.nc"),
        ("gs://bucket/x", "gs://bucket", "x"),
        ("memory://name/a/x", "memory://name", "a/x"),
        ("file:///data/a%20/x y.nc", "file:///data/a%20", "x y.nc"),
        ("/data/x", "file:///data", "x"),
        ("/x", "file:///", "x"),
        ("sftp://host/a/x", "sftp://host/a", "x"),
    ],
)
def test_an_objects_url_splits_into_root_and_key(url: str, root: str, key: str) -> None:
    assert split_url(url) == (root, key)
    assert join_url(root, key) == normalised_url(url)


@given(key=st.text(min_size=1, max_size=20).filter(is_key))
def test_joining_and_splitting_an_s3_url_undo_each_other(key: str) -> None:
    assert split_url(join_url("s3://bucket", key)) == ("s3://bucket", key)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "memory://name", "", "file:///"])
def test_a_url_that_names_no_object_cannot_be_fetched(url: str) -> None:
    with pytest.raises(InvalidInputError, match="URL"):
        fetch(url)


def test_fetch_reads_an_object_by_its_url(tmp_path: Path) -> None:
    (tmp_path / "a 100%").mkdir()
    (tmp_path / "a 100%" / "été #1.nc").write_bytes(b"granule")
    found = fetch(f"file://{tmp_path}/a 100%/été #1.nc")
    assert found.data == b"granule"
    assert found.info == PosixStore(tmp_path / "a 100%").head("été #1.nc")
    assert fetch(str(tmp_path / "a 100%" / "été #1.nc")) == found
    MemoryStore("memory://fetched").create("a/x", b"1")
    assert fetch("memory://fetched/a/x", StorageOptions()).data == b"1"
    with pytest.raises(NotFoundError, match="memory://fetched/a/y"):
        fetch("memory://fetched/a/y")


def test_options_survive_pickling() -> None:
    options = StorageOptions(endpoint_url="http://127.0.0.1:9000", region="eu-west-3", s3_client="s3fs")
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301 - our own bytes
