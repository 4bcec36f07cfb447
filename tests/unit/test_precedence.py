"""Precedence: what decides between granules that claim the same rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine_support import DAY_16, FakeClock, S3LikeStore, heights, small_schema
from tests.merge_engine import keys_of
from zcollection_engine import Collection, DatePartitioning, WriterOptions, create_collection
from zcollection_engine.errors import FormatError, InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.model import Granule
from zcollection_engine.identity import GranuleIdentity
from zcollection_engine.ingest import granule_from_dataset, prepare
from zcollection_engine.planning import Verdict
from zcollection_engine.precedence import ByAttribute, ByKey, ByTime, Precedence, precedence_from_json
from zcollection_engine.transaction import Offer, Outcome

TIMELINESS = ByKey(r"_(NR|ST|NT)_(?:.*_F(\d+))?", ("NR", "ST", "NT"))


def key(timeliness: str, baseline: str = "08") -> str:
    """A name as Sentinel-6 has them."""
    return f"S6A_P4_2__LR_RED__{timeliness}_114_099_20231216T011244_20231216T020857_F{baseline}.nc"


def test_by_time_leaves_all_to_the_time_of_the_object() -> None:
    assert ByTime().of("any", {}) == ()


def test_the_groups_of_a_key_decide_the_first_one_first() -> None:
    ranks = [TIMELINESS.of(key(t, b), {}) for t, b in itertools.product(("NR", "ST", "NT"), ("06", "08", "10"))]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 9
    assert TIMELINESS.of(key("NT", "08"), {}) == (2, 8)


def test_numbers_are_compared_as_numbers_not_as_text() -> None:
    rule = ByKey(r"_v(\d+)\.")
    assert rule.of("a_v9.nc", {}) < rule.of("a_v10.nc", {}) == rule.of("a_v0010.nc", {})


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, unique=True), st.data())
def test_texts_rank_as_their_order_says(order: list[str], data: st.DataObject) -> None:
    rule = ByAttribute("baseline", order=tuple(order))
    low, high = (data.draw(st.sampled_from(range(len(order)))) for _ in range(2))
    found = [rule.of("k", {"baseline": order[n]}) for n in (low, high)]
    assert (found[0] < found[1]) == (low < high)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        ("5", 5),
        (" 7 ", 7),
        (-3, -3),
        (np.int16(12), 12),
        (np.float64(4.0), 4),
        (np.float32(4.0), 4),
        (4.0, 4),
        ("005", 5),
    ],
)
def test_an_attribute_may_be_a_whole_number_in_any_form(value: Any, expected: int) -> None:
    assert ByAttribute("baseline").of("k", {"baseline": value}) == (expected,)


def test_a_pattern_takes_the_deciding_part_of_an_attribute() -> None:
    rule = ByAttribute("product_version", r"^(\d+)\.(\d+)")
    assert rule.of("k", {"product_version": "5.12-beta"}) == (5, 12)


@pytest.mark.parametrize(
    ("rule", "name", "attributes", "message"),
    [
        (TIMELINESS, "other.nc", {}, r"other\.nc: the key does not match"),
        (TIMELINESS, key("NR").replace("_F08", ""), {}, "None is neither a number nor one of"),
        (ByKey("_([A-Z]+)_", ("NR",)), "a_XX_b", {}, "'XX' is neither a number nor one of \\['NR'\\]"),
        (ByAttribute("baseline"), "k", {}, "k: the global attribute 'baseline'.*is missing"),
        (ByAttribute("baseline"), "k", {"baseline": None}, "is missing"),
        (ByAttribute("baseline"), "k", {"baseline": 1.5}, "'1.5' is neither a number"),
        (ByAttribute("baseline"), "k", {"baseline": "x\ny"}, "does not match"),
        (ByAttribute("baseline"), "k", {"baseline": "9" * 19}, "is neither a number"),
        (ByAttribute("baseline"), "k", {"baseline": "٣"}, "is neither a number"),
    ],
)
def test_a_granule_that_the_rule_cannot_rank_is_refused_with_key_and_value(
    rule: Precedence, name: str, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidGranuleError, match=message) as caught:
        rule.of(name, attributes)
    assert caught.value.code == "precedence"
    assert name in str(caught.value)


@pytest.mark.parametrize("pattern", ["(", "NR|ST", ""])
def test_a_pattern_that_decides_nothing_is_refused(pattern: str) -> None:
    for make in (lambda: ByKey(pattern), lambda: ByAttribute("a", pattern)):
        with pytest.raises(InvalidInputError, match="precedence"):
            make()


@pytest.mark.parametrize(
    "rule", [ByTime(), TIMELINESS, ByKey("(x)"), ByAttribute("a"), ByAttribute("a", "(b)", ("c",))], ids=str
)
def test_a_rule_survives_json(rule: Precedence) -> None:
    assert precedence_from_json(rule.to_json()) == rule


def test_without_a_rule_the_newer_object_wins_and_an_unknown_one_is_refused() -> None:
    assert precedence_from_json(None) == ByTime()
    with pytest.raises(FormatError, match="'size'"):
        precedence_from_json({"by": "size"})


# In a collection.


def collection_by(rule: Precedence) -> Collection:
    store = S3LikeStore("memory://precedence", FakeClock())
    store.clear()
    rules = DatePartitioning("time", "day")
    return create_collection(
        store, small_schema(), rules, precedence=rule, writer=WriterOptions("me"), clock=FakeClock()
    )


def deliver(collection: Collection, name: str, seconds: range, *, modified: int, **attributes: Any) -> Outcome:
    dataset = heights(seconds, offset=modified).assign_attrs(attributes)
    granule: Granule = granule_from_dataset(dataset, collection.schema, name=name)
    identity = GranuleIdentity("bucket", name, f"{modified}", granule.nbytes)
    entry, conformed = prepare(
        granule,
        collection.config,
        identity=identity,
        url="",
        precedence=(modified,),
        immutable=collection.immutable,
    )
    return collection.commit_offers([Offer(entry, conformed)])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_timeliness_wins_over_the_time_of_the_object_in_any_order(order: tuple[int, ...]) -> None:
    collection = collection_by(TIMELINESS)
    # The better product was written first here: its time alone would lose.
    spans = [(key("NT"), range(4), 1), (key("ST"), range(2, 6), 2), (key("NR"), range(3, 9), 3)]
    for number in order:
        name, seconds, modified = spans[number]
        deliver(collection, name, seconds, modified=modified)
    found = [name.split("_RED__")[1][:2] for name in keys_of(collection, DAY_16)]
    assert found == ["NT"] * 4 + ["ST"] * 2 + ["NR"] * 3
    collection.store.clear()  # type: ignore[attr-defined]


def test_granules_that_the_rule_ranks_alike_are_told_apart_by_time_then_by_key() -> None:
    collection = collection_by(ByAttribute("baseline"))
    deliver(collection, "b", range(3), modified=1, baseline=8)
    deliver(collection, "a", range(3), modified=2, baseline=8)
    assert set(keys_of(collection, DAY_16)) == {"a"}
    deliver(collection, "c", range(3), modified=2, baseline=8)
    assert set(keys_of(collection, DAY_16)) == {"c"}
    deliver(collection, "z", range(3), modified=9, baseline=7)
    assert set(keys_of(collection, DAY_16)) == {"c"}


def test_a_newer_object_of_a_lower_rank_does_not_replace_its_own_key() -> None:
    collection = collection_by(ByAttribute("baseline"))
    deliver(collection, "k", range(3), modified=1, baseline=8)
    outcome = deliver(collection, "k", range(5), modified=2, baseline=7)
    assert set(outcome.verdicts.values()) == {Verdict.SUPERSEDED}
    assert len(keys_of(collection, DAY_16)) == 3


def test_a_granule_that_the_rule_cannot_rank_changes_nothing() -> None:
    collection = collection_by(ByAttribute("baseline"))
    with pytest.raises(InvalidGranuleError, match="'baseline'"):
        deliver(collection, "k", range(3), modified=1)
    assert collection.partitions() == []
