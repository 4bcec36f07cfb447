"""Which variables are taken from a granule, and what the collection calls them."""

from __future__ import annotations

from typing import Any

import pytest

from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.selection import Selection, collection_path, compile_pattern

PATHS = ["/top", "/data_01/time", "/data_01/ssh", "/data_01/ku/x", "/data_01/ku/y1", "/data_01/ku/deep/z", "/aux/ku/x"]


def chosen(axis: str = "/data_01/time", **spec: Any) -> dict[str, str]:
    return dict(Selection(GranuleSpec(axis, **spec)).choose(PATHS, name="g.nc").variables)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("/*", {"/top"}),
        ("/data_01/*", {"/data_01/time", "/data_01/ssh"}),
        ("/data_01/**", {p for p in PATHS if p.startswith("/data_01/")}),
        ("/**", set(PATHS)),
        ("/**/x", {"/data_01/ku/x", "/aux/ku/x"}),
        ("/**/top", {"/top"}),
        ("/data_01/ku/y?", {"/data_01/ku/y1"}),
        ("/data_01/ku?x", set()),
        ("/data_01/s[s]h", set()),
        ("/*/ku/x", {"/data_01/ku/x", "/aux/ku/x"}),
        ("/data.01/ssh", set()),
    ],
)
def test_globs_stay_inside_a_group_unless_doubled(pattern: str, matched: set[str]) -> None:
    assert {path for path in PATHS if compile_pattern(pattern).fullmatch(path)} == matched


def test_by_default_the_group_of_the_axis_and_what_is_below_is_taken() -> None:
    assert chosen() == {
        "/data_01/time": "time",
        "/data_01/ssh": "ssh",
        "/data_01/ku/x": "ku/x",
        "/data_01/ku/y1": "ku/y1",
        "/data_01/ku/deep/z": "ku/deep/z",
    }
    assert set(chosen(axis="/top", exclude=("/aux/**",))) == set(PATHS) - {"/aux/ku/x"}


def test_the_axis_is_taken_even_when_it_is_excluded() -> None:
    assert chosen(include=("/data_01/ku/*",), exclude=("/data_01/time", "/**/x")) == {
        "/data_01/time": "time",
        "/data_01/ku/y1": "ku/y1",
    }


def test_a_variable_from_elsewhere_keeps_its_path_from_the_root() -> None:
    assert collection_path("/aux/x", "/data_01/time") == "aux/x"
    assert collection_path("/data_010/x", "/data_01/time") == "data_010/x"
    assert collection_path("/data_01/ku/x", "/time") == "data_01/ku/x"


def test_variables_and_attributes_are_renamed_by_collection_path() -> None:
    spec = GranuleSpec("/data_01/time", rename={"ku/x": "range", "cycle": "cycle_number"}, attributes={"cycle": "u2"})
    names = Selection(spec).choose(PATHS, name="g.nc")
    assert names.variables["/data_01/ku/x"] == "range"
    assert names.attributes == {"cycle": "cycle_number"}


@pytest.mark.parametrize(
    "spec",
    [
        {"include": ("/**",), "rename": {"aux/ku/x": "ku/x"}},
        {"rename": {"ssh": "ku/x"}},
        {"rename": {"ssh": "ku"}},
        {"rename": {"ssh": "ku/deep"}},
        {"attributes": {"ssh": "f8"}},
        {"attributes": {"ku": "f8"}},
    ],
)
def test_two_variables_cannot_get_one_path_nor_one_the_path_of_a_group(spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"g\.nc: .*exclude one of them or rename it") as caught:
        chosen(**spec)
    assert isinstance(caught.value, InvalidGranuleError)
    assert caught.value.code == "name_collision"


@pytest.mark.parametrize("name", ["granule", "", "a//b", "/a", "a/..", "a/zarr.json", "__x"])
def test_names_that_a_collection_cannot_use_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="rename it"):
        Selection(GranuleSpec("/data_01/time", rename={"ssh": name}))


def test_a_variable_with_the_reserved_name_must_be_renamed() -> None:
    paths = ["/time", "/granule"]
    with pytest.raises(InvalidGranuleError, match="variable /granule"):
        Selection(GranuleSpec("/time")).choose(paths, name="g.nc")
    renamed = Selection(GranuleSpec("/time", rename={"granule": "granule_id"})).choose(paths, name="g.nc")
    assert renamed.variables["/granule"] == "granule_id"


@pytest.mark.parametrize("spec", [{"include": ("data_01/*",)}, {"exclude": ("*",)}, {"axis": "time"}])
def test_patterns_and_the_axis_must_begin_at_the_root(spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"'/") as caught:
        Selection(GranuleSpec(**{"axis": "/time", **spec}))
    assert not isinstance(caught.value, InvalidGranuleError)
