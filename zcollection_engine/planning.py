"""What a set of offered granules means for a collection, decided from the log alone, without reading data.

The plan never changes the result: an append, a rewrite and a merge that turns out to change nothing give the same
partition.
"""

from __future__ import annotations

from collections.abc import Collection as Members
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError, NotFoundError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.merging import Change, Concat, Interval, Share, Strategy


class Verdict(StrEnum):
    """What became of an offered granule.

    It is in now; it was in already; a version of its object with a higher rank is in; it was in and was taken out on
    purpose, by a rollback or a retraction, and stays out.
    """

    COMMITTED = "committed"
    KNOWN = "known"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """What happens to one partition.

    Attributes
    ----------
    owners
        Granules with a share afterwards, in ascending rank.
    inserted
        Granules whose rows are read for it, in ascending rank.
    removed
        Ids of granules whose existing rows go first: replaced ones, and those that are read again.
    present
        Granules with a share before, in ascending rank, if the rows do not tell theirs; else empty.
    """

    path: str
    change: Change
    owners: tuple[GranuleEntry, ...]
    inserted: tuple[GranuleEntry, ...]
    removed: tuple[int, ...]
    present: tuple[GranuleEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a collection.

    Attributes
    ----------
    number
        The last record of the log that the plan stands on.
    verdicts
        Of every offered granule, by id.
    accepted
        Granules that enter the ledger.
    replaced
        Granules that leave it, the retracted ones among them.
    retracted
        Granules that leave it without a successor.
    partitions
        Every partition touched.
    restored
        Granules that lost rows to a replaced one and must be read again from their sources.
    lost
        Those of them whose source is gone.
    """

    number: int
    verdicts: dict[int, Verdict]
    accepted: tuple[GranuleEntry, ...]
    replaced: tuple[GranuleEntry, ...]
    retracted: tuple[GranuleEntry, ...]
    partitions: tuple[PartitionPlan, ...]
    restored: tuple[GranuleEntry, ...]
    lost: tuple[GranuleEntry, ...]

    @property
    def is_change(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.accepted or self.replaced)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(p.path for p in self.partitions)

    @property
    def rewritten(self) -> tuple[str, ...]:
        return tuple(p.path for p in self.partitions if p.change is Change.REWRITE)


@dataclass(frozen=True, slots=True)
class MergeRules:
    """What a collection's configuration says about merging.

    Attributes
    ----------
    strategy
        Which rows stay.
    provenance
        Whether each row tells its granule.
    """

    strategy: Strategy
    provenance: bool = True

    @property
    def tells_origin(self) -> bool:
        """Whether it can be told which granule a row of a partition comes from."""
        return self.provenance or self.strategy.tells_origin


def make_plan(
    state: CollectionState,
    rules: MergeRules,
    offered: Sequence[GranuleEntry],
    *,
    retracted: Sequence[GranuleEntry] = (),
    gone: Members[int] = (),
) -> Plan:
    """Plan a commit.

    Parameters
    ----------
    state
        The collection.
    rules
        How it merges.
    offered
        Granules with their shares.
    retracted
        Granules that are to leave.
    gone
        Ids of granules that cannot be read again.

    Raises
    ------
    InvalidGranuleError
        If two granules with different identities have the same id, or a granule would have to leave whose rows cannot
        be told from others.
    """
    _check_ids(state, offered)
    verdicts = _judge(state, offered)
    accepted = tuple({e.id: e for e in offered if verdicts[e.id] is Verdict.COMMITTED}.values())
    keys = sorted({(e.identity.bucket, e.identity.key) for e in accepted})
    present = [found for key in keys if (found := state.ledger.latest(*key)) is not None]
    _check_provenance(rules, present, retracted)
    replaced = tuple(state.ledger.living(entry) for entry in (*present, *retracted))
    paths = sorted({path for entry in (*accepted, *replaced) for path in entry.shares})
    restorable: dict[int, GranuleEntry] = {}
    lost: dict[int, GranuleEntry] = {}
    partitions = []
    for path in paths:
        base, present_there = state.partition(path), state.ledger.owners(path)
        plan, losers = _plan_partition(
            base, rules, present=present_there, accepted=accepted, replaced=replaced, gone=gone
        )
        partitions.append(plan)
        for entry in losers:
            (lost if entry.id in gone else restorable)[entry.id] = entry
    return Plan(
        state.number,
        verdicts,
        accepted,
        replaced,
        tuple(retracted),
        tuple(partitions),
        tuple(restorable.values()),
        tuple(lost.values()),
    )


def named_granules(state: CollectionState, names: Iterable[int | str], *, place: str) -> list[GranuleEntry]:
    """Return the granules that are in under some ids or keys, each once.

    Parameters
    ----------
    state
        The collection.
    names
        Ids, or keys of objects.
    place
        What errors call the collection.

    Raises
    ------
    NotFoundError
        If one of them is not in.
    InvalidInputError
        If a key is in from several buckets.
    """
    found = [_named_granule(state, name, place) for name in dict.fromkeys(names)]
    return list({entry.id: entry for entry in found}.values())


def _named_granule(state: CollectionState, name: int | str, place: str) -> GranuleEntry:
    if isinstance(name, str):
        found = [entry for entry in state.ledger if entry.identity.key == name]
    else:
        found = [entry] if (entry := state.ledger.get(int(name))) is not None else []
    if len(found) > 1:
        buckets = ", ".join(sorted(entry.identity.bucket for entry in found))
        raise InvalidInputError(f"{place}: {name!r} is in from several buckets ({buckets}): name it by its id")
    if not found:
        raise NotFoundError(f"{place}: no granule {name!r} is in; granules() lists them")
    return found[0]


def _check_ids(state: CollectionState, offered: Iterable[GranuleEntry]) -> None:
    """Refuse two identities with one id: their rows could not be told apart."""
    seen: dict[int, GranuleEntry] = {}
    for entry in offered:
        other = state.ledger.get(entry.id) or seen.setdefault(entry.id, entry)
        if other.identity != entry.identity:
            raise InvalidGranuleError(
                f"{entry.identity.key!r} and {other.identity.key!r} have the same 64-bit id {entry.id}; write the"
                " object again under another name",
                reason="id_collision",
            )


def _check_provenance(rules: MergeRules, replaced: Iterable[GranuleEntry], retracted: Iterable[GranuleEntry]) -> None:
    """Refuse to take granules out whose rows can neither be told from others nor be overwritten by their successors."""
    if rules.tells_origin:
        return
    for entry in retracted:
        raise InvalidInputError(
            f"{entry.identity.key!r} cannot be retracted: the collection keeps no provenance, so its rows cannot be"
            " told from others"
        )
    for entry in replaced if isinstance(rules.strategy, Concat) else ():
        raise InvalidGranuleError(
            f"{entry.identity.key!r} is in already, and the collection keeps no provenance, so a newer version cannot"
            " replace its rows; deliver it under another name if they shall be there twice",
            reason="no_provenance",
        )


def _judge(state: CollectionState, offered: Sequence[GranuleEntry]) -> dict[int, Verdict]:
    verdicts = {entry.id: _judge_alone(state, entry) for entry in offered}
    newest: dict[tuple[str, str], GranuleEntry] = {}
    for entry in offered:
        key = (entry.identity.bucket, entry.identity.key)
        if verdicts[entry.id] is Verdict.COMMITTED and (key not in newest or newest[key].rank < entry.rank):
            newest[key] = entry
    taken = {entry.id for entry in newest.values()}
    beaten = {i for i, verdict in verdicts.items() if verdict is Verdict.COMMITTED and i not in taken}
    return verdicts | dict.fromkeys(beaten, Verdict.SUPERSEDED)


def _judge_alone(state: CollectionState, entry: GranuleEntry) -> Verdict:
    """What becomes of a granule if no other version of its object is offered with it."""
    if entry.id in state.ledger:
        return Verdict.KNOWN
    present = state.ledger.latest(entry.identity.bucket, entry.identity.key)
    if present is not None and present.rank > entry.rank:
        return Verdict.SUPERSEDED
    return Verdict.WITHDRAWN if state.ledger.was_withdrawn(entry.id) else Verdict.COMMITTED


def _plan_partition(
    base: PartitionState,
    rules: MergeRules,
    *,
    present: Sequence[GranuleEntry],
    accepted: Sequence[GranuleEntry],
    replaced: Sequence[GranuleEntry],
    gone: Members[int],
) -> tuple[PartitionPlan, list[GranuleEntry]]:
    path = base.path
    leaving = {e.id: e for e in replaced if path in e.shares}
    staying = [e for e in present if e.id not in leaving]
    incoming = sorted((e for e in accepted if path in e.shares), key=lambda e: e.rank)
    owners = sorted([*staying, *incoming], key=lambda e: e.rank)
    losers = _losers(path, rules.strategy, staying, leaving.values(), owners) if rules.tells_origin else []
    back = [e for e in losers if e.id not in gone]
    inserted = sorted([*incoming, *back], key=lambda e: e.rank)
    removed = (*leaving, *(e.id for e in back)) if rules.tells_origin else ()
    change = Change.REWRITE if removed else _change(base, rules.strategy, staying, incoming, owners)
    known = () if rules.provenance else tuple(sorted(present, key=lambda e: e.rank))
    return PartitionPlan(path, change, tuple(owners), tuple(inserted), removed, known), losers


def _change(
    base: PartitionState,
    strategy: Strategy,
    staying: Sequence[GranuleEntry],
    incoming: Sequence[GranuleEntry],
    owners: Sequence[GranuleEntry],
) -> Change:
    path = base.path
    if all(strategy.hides(e.shares[path].intervals, _above(path, owners, e)) for e in incoming):
        return Change.NONE
    if base.is_imported:
        return Change.REWRITE  # its chunks are not ours to be written behind
    ends = [e.shares[path].last for e in staying]
    if base.axis is not None:
        ends.append(base.axis[1])  # rows that were taken over have no granule
    first = min(e.shares[path].first for e in incoming)
    return Change.APPEND if not ends or (strategy.appends and first > max(ends)) else Change.REWRITE


def _losers(
    path: str,
    strategy: Strategy,
    staying: Iterable[GranuleEntry],
    leaving: Iterable[GranuleEntry],
    owners: Sequence[GranuleEntry],
) -> list[GranuleEntry]:
    """Granules that get rows back because a granule that took them leaves."""
    leaving = list(leaving)
    losers = []
    for entry in staying:
        taken: list[Interval] = []
        for other in leaving:
            if other.rank > entry.rank:
                taken.extend(strategy.takes(entry.shares[path].intervals, other.shares[path].intervals))
        if taken and not strategy.hides(taken, _above(path, owners, entry)):
            losers.append(entry)
    return losers


def _above(path: str, owners: Sequence[GranuleEntry], entry: GranuleEntry) -> list[Interval]:
    shares: list[Share] = [o.shares[path] for o in owners if o.rank > entry.rank]
    return [interval for share in shares for interval in share.intervals]
