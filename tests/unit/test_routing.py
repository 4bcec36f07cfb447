"""Which objects go to which collection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.routing import Router, Rule
from daemon.sources.base import ObjectRef
from zcollection_engine.stores.resolve import locate


def ref(url: str) -> ObjectRef:
    bucket, key = locate(url)
    return ObjectRef(url=url, bucket=bucket, key=key)


def collection_of(pattern: str, key: str) -> str | None:
    return Router([Rule("c", (pattern,))], []).route(ref(f"s3://bucket/{key}")).collection


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("S6A_*.nc", "S6A_P4.nc", True),
        ("S6A_*.nc", "deep/in/folders/S6A_P4.nc", True),
        ("S6A_*.nc", "s6a_p4.nc", False),
        ("S6A_*.nc", "S6A_P4.nc.md5", False),
        ("S6A_*.nc", "xS6A_P4.nc", False),
        ("S6A_*.nc", "S6A_/P4.nc", False),
        ("a?.nc", "ab.nc", True),
        ("a?.nc", "a.nc", False),
        ("a[0-9].nc", "a7.nc", True),
        ("a[!0-9].nc", "a7.nc", False),
        ("a[!0-9].nc", "ax.nc", True),
        ("a[]].nc", "a].nc", True),
        ("a[^].nc", "a^.nc", True),
        ("a[.nc", "a[.nc", True),
        ("a[].nc", "a[].nc", True),
        ("a[z-a].nc", "a[z-a].nc", True),
        ("in/*.nc", "in/a.nc", True),
        ("in/*.nc", "in/deep/a.nc", False),
        ("in/*.nc", "other/in/a.nc", False),
        ("in/**.nc", "in/deep/down/a.nc", True),
        ("in/**/a.nc", "in/a.nc", True),
        ("in/**/a.nc", "in/x/y/a.nc", True),
        ("**/in/*.nc", "in/a.nc", True),
        ("**/in/*.nc", "x/in/a.nc", True),
        ("/in/*.nc", "in/a.nc", True),
        ("in/[!x]a.nc", "in//a.nc", False),
        ("a+b (1).nc", "a+b (1).nc", True),
        ("*", "line\nbreak.nc", True),
    ],
)
def test_a_pattern_matches_the_last_part_or_with_a_slash_the_whole_key(pattern: str, key: str, matches: bool) -> None:
    assert (collection_of(pattern, key) == "c") is matches


def test_the_first_rule_that_matches_wins() -> None:
    router = Router([Rule("narrow", ("x.nc", "S6A_*HR*.nc")), Rule("wide", ("S6A_*.nc",))], [])
    assert router.route(ref("s3://b/S6A_HR.nc")).collection == "narrow"
    assert router.route(ref("s3://b/S6A_LR.nc")).collection == "wide"


def test_the_reason_names_pattern_and_collection() -> None:
    route = Router([Rule("s6a", ("S6A_*.nc",))], []).route(ref("s3://b/S6A_LR.nc"))
    assert route.reason == "matched pattern 'S6A_*.nc' of collection 's6a'"


def test_an_object_that_no_rule_wants_is_told_what_is_wanted() -> None:
    route = Router([Rule("s6a", ("S6A_*.nc",))], []).route(ref("s3://b/readme.txt"))
    assert route.collection is None
    assert route.reason == "no rule matches: 's6a' takes 'S6A_*.nc'"


@pytest.mark.parametrize(
    ("own", "url"),
    [
        ("s3://bucket/collections/s6a", "s3://bucket/collections/s6a/year=2023/time/c/0"),
        ("s3://bucket/collections/s6a/", "s3://bucket/collections/s6a/zarr.json"),
        ("s3a://bucket/c", "s3://bucket/c/zarr.json"),
        ("s3://bucket", "s3://bucket/anything"),
        ("file:///data/out", "file:///data/out/x.nc"),
        ("/data/out", "file:///data/out/x.nc"),
        ("file:///data/in/../out/", "file:///data//out/x.nc"),
        ("memory://out", "memory:///out/x.nc"),
        ("gcs://bucket/c", "gs://bucket/c/x.nc"),
    ],
)
def test_the_daemons_own_output_is_never_input(own: str, url: str) -> None:
    route = Router([Rule("all", ("*",))], [own]).route(ref(url))
    assert route.collection is None
    assert "the daemon's own output" in route.reason
    assert own in route.reason


@pytest.mark.parametrize(
    ("own", "url"),
    [
        ("s3://bucket/collections/s6a", "s3://bucket/collections/s6a-incoming/x.nc"),
        ("s3://bucket/c", "s3://other/c/x.nc"),
        ("s3://bucket/c", "file:///bucket/c/x.nc"),
        ("s3://bucket/a/../c", "s3://bucket/c/x.nc"),
    ],
)
def test_neighbours_of_the_daemons_output_are_input(own: str, url: str) -> None:
    assert Router([Rule("all", ("*",))], [own]).route(ref(url)).collection == "all"


PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=8)
FOLDERS = st.lists(PARTS.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=4).map("/".join)


@given(
    scheme=st.sampled_from(["s3://bucket/", "file:///", "memory://", "gs://bucket/"]),
    owns=st.lists(FOLDERS, min_size=1, max_size=3),
    inside=FOLDERS,
    slash=st.sampled_from(["", "/"]),
    data=st.data(),
)
def test_nothing_inside_an_own_folder_is_ever_routed(
    *, scheme: str, owns: list[str], inside: str, slash: str, data: st.DataObject
) -> None:
    router = Router([Rule("all", ("*", "**/*", "**"))], [f"{scheme}{own}{slash}" for own in owns])
    own = data.draw(st.sampled_from(owns))
    assert router.route(ref(f"{scheme}{own}/{inside}")).collection is None


@given(own=FOLDERS, more=PARTS)
def test_a_folder_whose_name_only_starts_like_an_own_one_is_routed(own: str, more: str) -> None:
    router = Router([Rule("all", ("*",))], [f"s3://bucket/{own}"])
    assert router.route(ref(f"s3://bucket/{own}{more}/x.nc")).collection == "all"


@given(key=FOLDERS)
def test_a_key_without_wildcards_is_a_pattern_for_itself(key: str) -> None:
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in key)
    assert collection_of(f"/{escaped}", key) == "c"


def test_an_explanation_shows_what_was_tried_and_what_comes_of_it() -> None:
    router = Router([Rule("s3", ("S3A_*.nc",)), Rule("s6a", ("S6A_*.nc",))], ["s3://bucket/out"])
    assert router.explain("in/S6A_LR.nc") == "\n".join(
        [
            "in/S6A_LR.nc",
            "  'S3A_*.nc' of collection 's3': no",
            "  'S6A_*.nc' of collection 's6a': yes",
            "  goes to collection 's6a': matched pattern 'S6A_*.nc' of collection 's6a'",
        ]
    )
    assert "is left alone: no rule matches" in router.explain("s3://bucket/readme.txt")
    assert "is left alone: the daemon's own output" in router.explain("s3://bucket/out/S6A_LR.nc")


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://bucket/with spaces/and+#?.nc", "bucket", "with spaces/and+#?.nc"),
        ("s3a://bucket/a.nc", "bucket", "a.nc"),
        ("file:///data/in/a.nc", "", "data/in/a.nc"),
        ("/data/in/a.nc", "", "data/in/a.nc"),
        ("gs://bucket/a/b.nc", "gs://bucket", "a/b.nc"),
        ("s3://bucket//a.nc", "bucket", "/a.nc"),
    ],
)
def test_bucket_and_key_of_a_url(url: str, bucket: str, key: str) -> None:
    assert locate(url) == (bucket, key)
