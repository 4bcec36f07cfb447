"""The cloud store: where credentials, region and address come from, and what a fork does to it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from botocore.credentials import RefreshableCredentials

from tests import servers
from tests.servers import S3Server
from zcollection_engine.errors import InvalidInputError, PreconditionFailedError, StorageError
from zcollection_engine.stores import credentials, objects
from zcollection_engine.stores.objects import CloudStore
from zcollection_engine.stores.options import StorageOptions


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys in the environment, but a profile that has them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", *servers.AWS_UNSET):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(
        f"[operator]\naws_access_key_id = {servers.ACCESS_KEY}\naws_secret_access_key = {servers.SECRET_KEY}\n"
    )
    (tmp_path / "config").write_text("[profile operator]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_PROFILE", "operator")


def test_keys_and_region_come_from_the_profile(profile: None) -> None:
    provider = credentials.credential_provider()
    assert provider is not None
    given = provider()
    assert (given["access_key_id"], given["secret_access_key"]) == (servers.ACCESS_KEY, servers.SECRET_KEY)
    assert given["expires_at"] is None
    assert credentials.region(None) == "eu-west-3"
    assert credentials.region("us-west-2") == "us-west-2"


@pytest.fixture
def guarded_bucket(seaweed_server: S3Server) -> str:
    """A bucket of a server that refuses other keys than its own."""
    return seaweed_server.new_bucket()


@pytest.mark.integration
def test_a_bucket_opens_with_the_keys_of_a_profile(
    seaweed_server: S3Server, guarded_bucket: str, profile: None
) -> None:
    store = CloudStore(f"s3://{guarded_bucket}", StorageOptions(endpoint_url=seaweed_server.endpoint_url))
    etag = store.create("x", b"1")
    assert store.head("x").etag == etag


@pytest.mark.integration
def test_wrong_keys_are_an_error_of_the_storage(
    seaweed_server: S3Server, guarded_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = CloudStore(f"s3://{guarded_bucket}", StorageOptions(endpoint_url=seaweed_server.endpoint_url))
    with pytest.raises(StorageError, match=r"(?s)cannot create s3://bucket-.*/x: .*403.*SignatureDoesNotMatch"):
        store.create("x", b"1")


@pytest.mark.integration
def test_the_address_may_come_from_the_environment(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint_url)
    store = CloudStore(f"s3://{moto_server.new_bucket()}")
    store.create("x", b"1")
    assert [info.key for info in store.list()] == ["x"]


def test_the_environments_keys_need_no_provider(aws_environment: None) -> None:
    assert credentials.credential_provider() is None


def test_a_public_bucket_needs_no_keys(profile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert credentials.credential_provider() is None


def test_missing_keys_are_told(profile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(StorageError, match="no AWS credentials found; set AWS_ACCESS_KEY_ID"):
        CloudStore("s3://bucket", StorageOptions(endpoint_url="http://127.0.0.1:1")).get("x")


def test_keys_of_a_role_are_asked_for_again_before_they_expire() -> None:
    now = datetime.now(UTC)
    role = RefreshableCredentials("key", "secret", "token", now + timedelta(hours=1), dict, "test")

    class Session:
        def get_credentials(self) -> Any:
            return role

    given = credentials.BotocoreCredentials(Session())()
    assert given["token"] == "token"  # noqa: S105 - no real one
    assert given["expires_at"] is not None
    assert now < given["expires_at"] <= now + timedelta(minutes=10)


def test_a_process_forked_after_the_first_use_is_refused(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects._RUNTIME, "_pid", os.getpid() + 1)
    with pytest.raises(StorageError, match="'spawn'"):
        CloudStore("s3://bucket").get("x")


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "bucket", "file:///x"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="does not name a bucket"):
        CloudStore(url)


class TestGoogle:
    """Against obstore's store in memory, which has ETags but no generations."""

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> CloudStore:
        store = CloudStore("gs://bucket")
        memory = obstore.store.MemoryStore()
        monkeypatch.setattr(store, "_clients", objects._Clients(memory, memory))
        return store

    def test_a_replacement_names_the_generation(self, store: CloudStore, monkeypatch: pytest.MonkeyPatch) -> None:
        modes: list[Any] = []
        head, put = obstore.head, obstore.put

        def noted(*args: Any, mode: Any, **others: Any) -> Any:
            modes.append(mode)
            return put(*args, mode="overwrite", **others)

        monkeypatch.setattr(obstore, "head", lambda *args: {**head(*args), "version": "generation 7"})
        monkeypatch.setattr(obstore, "put", noted)
        etag = store.create("x", b"1")
        store.replace("x", b"2", etag)
        assert modes == ["create", {"e_tag": f'"{etag}"', "version": "generation 7"}]

    def test_a_replacement_of_another_version_is_not_sent(self, store: CloudStore) -> None:
        first = store.create("x", b"1")
        with pytest.raises(PreconditionFailedError, match=f"not {first}x"):
            store.replace("x", b"2", f"{first}x")
        assert store.get("x").data == b"1"

    def test_a_replacement_of_a_missing_object_is_refused(self, store: CloudStore) -> None:
        with pytest.raises(PreconditionFailedError, match="gs://bucket/x is gone"):
            store.replace("x", b"2", "1")
