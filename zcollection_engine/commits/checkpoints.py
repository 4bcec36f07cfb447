"""Checkpoints: the fold of the log up to a record as a few objects, so that opening need not read every record.

A checkpoint is one object, ``.zcommits/checkpoints/<20-digit number>.json.gz``, created only if absent; the pieces of
its ledger exist before it does. It says nothing that the records up to its number do not say.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from zcollection_engine.commits import granule_index
from zcollection_engine.commits.granule_index import GranuleIndex, Presence, Rows, key_hash
from zcollection_engine.commits.ledger import Ledger
from zcollection_engine.commits.log import CHECKPOINTS
from zcollection_engine.commits.pieces import (
    LedgerRefs,
    Piece,
    Pieces,
    Table,
    TableRef,
    home_of,
    packed,
    run_parallel,
    unpacked,
)
from zcollection_engine.commits.records import FORMAT_VERSION, Creation, Grant, parse, parse_time, time_text
from zcollection_engine.commits.state import CollectionState, HeldGrant, PartitionState
from zcollection_engine.commits.tables import LedgerTables
from zcollection_engine.errors import FormatError, PreconditionFailedError
from zcollection_engine.stores.base import ObjectStore


def checkpoint_key(number: int) -> str:
    """Key of a checkpoint below the collection."""
    return f"{CHECKPOINTS}{number:020d}.json.gz"


def checkpoint_number(key: str) -> int | None:
    """Number of the checkpoint at ``key``; None if the key is no checkpoint's."""
    name = key.removeprefix(CHECKPOINTS)
    is_checkpoint = key.startswith(CHECKPOINTS) and name[20:] == ".json.gz" and name[:20].isdecimal()
    return int(name[:20]) if is_checkpoint else None


class Checkpoints:
    """The checkpoints of one collection.

    Parameters
    ----------
    store
        The collection's store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pieces = Pieces(store)

    def numbers(self) -> list[int]:
        """Numbers of all checkpoints, ascending: one LIST."""
        found = (checkpoint_number(info.key) for info in self._store.list(CHECKPOINTS))
        return [number for number in found if number is not None]

    def load(self, number: int) -> CollectionState:
        """Read a checkpoint; raises `NotFoundError`, `FormatError`."""
        body, name = self._body(number)
        with _reading(name):
            state = _state_from_json(body)
            refs = _refs_from_json(body)
        state.checkpoint = number
        state.ledger = Ledger(LedgerTables(self._pieces, refs))
        return state

    def references(self, number: int) -> LedgerRefs:
        """Where a checkpoint's granules are; raises `NotFoundError`, `FormatError`."""
        body, name = self._body(number)
        with _reading(name):
            return _refs_from_json(body)

    def write(self, state: CollectionState) -> None:
        """Write a checkpoint of a state, and let the state's ledger stand on it."""
        base = state.ledger.base
        before = base.refs if isinstance(base, LedgerTables) else LedgerRefs()
        names = _Names(state.number)
        tables = self._extend_tables(state, before, names)
        rows = _index_rows(state.ledger, list(tables))
        index = self._pieces.extend_index(before.index, rows, names.next(".npy")) if rows.size else before.index
        refs = LedgerRefs(len(state.ledger), index, tables)
        body = {"format_version": FORMAT_VERSION, **_state_to_json(state), **_refs_to_json(refs)}
        try:
            self._store.create(checkpoint_key(state.number), packed(body))
        except PreconditionFailedError:
            # Another writer made this checkpoint from the same records, on pieces of its own.
            return
        if max(self.numbers()) > state.number:
            # This one took so long that its pieces may have been collected meanwhile; nobody needs it any more.
            self._store.delete(checkpoint_key(state.number))
            return
        known = base.index if isinstance(base, LedgerTables) else GranuleIndex([])
        state.checkpoint = state.number
        state.ledger = Ledger(LedgerTables(self._pieces, refs, known.extended(rows) if known else None))

    def _body(self, number: int) -> tuple[dict[str, Any], str]:
        key = checkpoint_key(number)
        name = f"{self._store.url}/{key}"
        return parse(unpacked(self._store.get(key).data, name=name), name=name), name

    def _extend_tables(self, state: CollectionState, before: LedgerRefs, names: _Names) -> dict[str, TableRef]:
        """Write what is new in each partition since the checkpoint before; return all tables."""
        ledger = state.ledger
        new: dict[str, Table] = {}
        for entry in ledger.left.values():
            for path in entry.shares:
                new.setdefault(path, Table()).gone.add(entry.id)
        for identity, row in ledger.added.items():
            for path in row[1].shares or (home_of(row[1]),):
                new.setdefault(path, Table()).rows[identity] = row
        pieces = {path: ref.pieces for path, ref in before.tables.items()}
        jobs = [(path, pieces.get(path, ()), new[path], names.next(".json.gz")) for path in sorted(new)]
        written = run_parallel(lambda job: self._pieces.extend_table(*job), jobs)
        pieces |= {job[0]: found for job, found in zip(jobs, written, strict=True)}
        return {
            path: TableRef(found, ledger.count(path), state.partition(path).dropped) for path, found in pieces.items()
        }


class _Names:
    """Names of pieces that no other attempt at a checkpoint uses."""

    def __init__(self, number: int) -> None:
        self._stem = f"{number:020d}-{uuid.uuid4().hex[:12]}"
        self._count = 0

    def next(self, suffix: str) -> str:
        self._count += 1
        return f"{self._stem}-{self._count}{suffix}"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what a damaged document leads to into a `FormatError` that names it."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise FormatError(f"{name} is damaged: {error!r}") from error


def _index_rows(ledger: Ledger, paths: Sequence[str]) -> Rows:
    """What is new in the index since the checkpoint before."""
    homes = {path: number for number, path in enumerate(paths)}
    outside = {i: e for i, e in {**ledger.withdrawn, **ledger.left}.items() if i not in ledger.added}
    gone = [(e, Presence.WITHDRAWN if i in ledger.withdrawn else Presence.REMOVED) for i, e in outside.items()]
    here = [(entry, Presence.IN) for _, entry in ledger.added.values()]
    return granule_index.make_rows(
        (e.id, key_hash(e.identity.bucket, e.identity.key), homes.get(home_of(e), 0), presence)
        for e, presence in (*gone, *here)
    )


def _state_to_json(state: CollectionState) -> dict[str, Any]:
    if state.creation is None:
        raise FormatError("a log without its first record has no checkpoint")
    held: dict[int, tuple[HeldGrant, list[str]]] = {}
    for path, grant in state.held.items():
        held.setdefault(grant.token, (grant, []))[1].append(path)
    return {
        "number": state.number,
        "collection": {"transaction": state.creation.transaction, "time": time_text(state.creation.time)},
        "config": state.config,
        "configured": state.configured,
        "last_commit": state.last_commit,
        "last_time": time_text(state.last_time) if state.last_time else None,
        "published": state.published,
        "lost": [str(identity) for identity in sorted(state.lost)],
        "held": [_held_to_json(grant, paths) for grant, paths in held.values()],
        "partitions": [_partition_to_json(p) for p in state.partitions.values()],
    }


def _state_from_json(body: Mapping[str, Any]) -> CollectionState:
    creation = body["collection"]
    state = CollectionState(
        number=body["number"],
        creation=Creation(creation["transaction"], parse_time(creation["time"])),
        config=body["config"],
        configured=body["configured"],
        last_commit=body["last_commit"],
        last_time=parse_time(body["last_time"]) if body["last_time"] else None,
        published=body["published"],
        lost={int(identity) for identity in body["lost"]},
        partitions={p.path: p for p in map(_partition_from_json, body["partitions"])},
    )
    for data in body["held"]:
        state.held.update(_held_from_json(data))
    return state


def _held_to_json(held: HeldGrant, paths: list[str]) -> dict[str, Any]:
    grant = held.grant
    return {
        "token": held.token,
        "alive": held.alive,
        "partitions": paths,
        "grant": {
            "transaction": grant.transaction,
            "time": time_text(grant.time),
            "owner": grant.owner,
            "session": grant.session,
            "seconds": grant.seconds,
            "partitions": list(grant.partitions),
        },
    }


def _held_from_json(data: Mapping[str, Any]) -> dict[str, HeldGrant]:
    grant = data["grant"]
    found = Grant(**{**grant, "time": parse_time(grant["time"]), "partitions": tuple(grant["partitions"])})
    return dict.fromkeys(data["partitions"], HeldGrant(data["token"], found, data["alive"]))


def _partition_to_json(partition: PartitionState) -> list[Any]:
    row = [
        partition.path,
        partition.commit,
        partition.rows,
        partition.generation,
        list(partition.axis) if partition.axis else None,
        {str(generation): time_text(time) for generation, time in partition.flips.items()},
        partition.dropped,
    ]
    return [*row, partition.imported] if partition.is_imported else row


def _partition_from_json(row: list[Any]) -> PartitionState:
    path, commit, rows, generation, axis, flips, dropped, *imported = row
    return PartitionState(
        path,
        commit,
        rows,
        generation,
        (axis[0], axis[1]) if axis else None,
        {int(number): parse_time(time) for number, time in flips.items()},
        dropped,
        *imported,
    )


def _refs_to_json(refs: LedgerRefs) -> dict[str, Any]:
    return {
        "granules": refs.size,
        "index": [[p.name, p.rows] for p in refs.index],
        "tables": [
            [path, t.members, t.dropped, [[p.name, p.rows] for p in t.pieces]] for path, t in refs.tables.items()
        ],
    }


def _refs_from_json(body: Mapping[str, Any]) -> LedgerRefs:
    tables = {
        path: TableRef(tuple(Piece(*p) for p in pieces), members, dropped)
        for path, members, dropped, pieces in body["tables"]
    }
    return LedgerRefs(body["granules"], tuple(Piece(*p) for p in body["index"]), tables)
