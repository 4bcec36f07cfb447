"""Names of objects, and where a listing may start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.stores.keys import Root, check_prefix, is_key, listing_offset

parts = st.text(alphabet=" -.0/19AZ]^az~é", min_size=1, max_size=4).filter(is_key)
keys = st.lists(parts, min_size=1, max_size=3).map("/".join)


@given(found=st.sets(keys, max_size=12), after=keys | st.sampled_from(["a", "a/", "10", "b/00.json"]))
def test_no_order_of_a_server_hides_what_sorts_behind_a_name(found: set[str], after: str) -> None:
    wanted = {key for key in found if key > after}
    offset = listing_offset("", after)
    if offset is None:
        return
    assert wanted <= {key for key in found if key > offset}
    # As SeaweedFS walks: by parts, passing over the whole folder that the offset names.
    tree = {key for key in found if key.split("/") > offset.split("/") and not key.startswith(f"{offset}/")}
    assert wanted <= tree


@pytest.mark.parametrize(
    ("after", "offset"),
    [
        ("log/00000000000000000012.json", "log/00000000000000000011~"),
        ("log/00000000000000001000.json", "log/00000000000000000~"),
        ("log/c", "log/b~"),
        ("log/000", None),
        ("log/", None),
        ("lo", None),
    ],
)
def test_a_listing_starts_close_to_the_name(after: str, offset: str | None) -> None:
    assert listing_offset("log/", after) == offset


@pytest.mark.parametrize("prefix", ["a", "/", "a//", "../"])
def test_a_prefix_that_is_no_folder_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidInputError):
        check_prefix(prefix)


@pytest.mark.parametrize("path", ["a/b", "/a/b", "a/b/", "/a/b/"])
def test_a_root_spells_keys_from_the_bucket(path: str) -> None:
    root = Root.of(path)
    assert root.absolute("c") == "a/b/c"
    assert root.relative("a/b/c") == "c"
    assert root.absolute_prefix("") == "a/b/"


def test_the_root_of_a_bucket_has_no_prefix() -> None:
    assert Root.of("").absolute("c") == "c"
    assert Root.of("").absolute_prefix("") == ""
