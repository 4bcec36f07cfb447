"""The journal: what is written is found again, also by those who may only read."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import StateInUseError, StateUnusableError
from daemon.journal import FILE, Entry, Journal, State, owned_state_dir

PROJECT = Path(__file__).parents[2]
NOON = datetime(2026, 7, 30, 12, tzinfo=UTC)


def entry(number: int, state: State = State.COMMITTED, **others: object) -> Entry:
    """A granule that landed ``number`` seconds after noon, and is settled 2 s later if it is settled at all."""
    landed = NOON + timedelta(seconds=number)
    settled = landed + timedelta(seconds=2) if state.is_settled else None
    made = Entry(
        str(number), "s6a", "bucket", f"in/{number:04}.nc", state, landed=landed, received=landed, settled=settled
    )
    return replace(made, **others)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


INDIA = timezone(timedelta(hours=5, minutes=30))
YEARS = timedelta(days=30 * 365)
TIMES = st.none() | st.builds(
    lambda delay, zone: (NOON + delay).astimezone(zone), st.timedeltas(-YEARS, YEARS), st.sampled_from([UTC, INDIA])
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    line=st.builds(
        Entry,
        id=st.integers(0, 2**64 - 1).map(str),
        collection=TEXTS,
        bucket=TEXTS,
        key=TEXTS,
        state=st.sampled_from(State),
        etag=st.none() | TEXTS,
        size=st.none() | st.integers(0, 2**62),
        reason=TEXTS,
        message=TEXTS,
        attempts=st.integers(0, 100),
        landed=TIMES,
        received=TIMES,
        settled=TIMES,
    )
)
def test_a_line_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, line: Entry) -> None:
    journal = Journal(tmp_path_factory.mktemp("state"))
    try:
        journal.record(line)
        assert list(journal.all()) == [line]
        assert journal.find(line.key) == [line]
        assert journal.attempts(line.collection, line.id) == line.attempts
    finally:
        journal.close()


def test_a_granule_has_one_line_in_each_collection(journal: Journal) -> None:
    journal.record(entry(1, State.RECEIVED))
    journal.record(entry(1, State.COMMITTED))
    journal.record(entry(1, State.QUARANTINED, collection="other", reason="unreadable"))
    assert journal.counts() == {
        "other": {(State.QUARANTINED, "unreadable"): 1},
        "s6a": {(State.COMMITTED, ""): 1},
    }


def test_the_attempts_at_an_unknown_granule_are_none(journal: Journal) -> None:
    assert journal.attempts("s6a", "1") == 0


def test_the_latest_come_first_and_no_more_than_asked_for(journal: Journal) -> None:
    for number in (3, 1, 2):
        journal.record(entry(number))
    journal.record(entry(9, State.QUARANTINED))
    journal.record(entry(8, collection="other"))
    assert [e.id for e in journal.latest([State.COMMITTED], 2, collection="s6a")] == ["3", "2"]
    assert [e.id for e in journal.latest([State.COMMITTED, State.QUARANTINED], 10)] == ["9", "8", "3", "2", "1"]
    assert journal.latest([State.RETRYING], 10) == []


def test_times_within_a_second_are_in_order(journal: Journal) -> None:
    for microseconds in (1, 0, 999_999, 50_000):
        journal.record(entry(microseconds, settled=NOON + timedelta(microseconds=microseconds)))
    assert [e.id for e in journal.latest([State.COMMITTED], 10)] == ["999999", "50000", "1", "0"]


def test_the_oldest_waiting_granule_is_the_one_that_landed_first(journal: Journal) -> None:
    assert journal.oldest_waiting("s6a") is None
    journal.record(entry(1))
    journal.record(entry(5, State.RECEIVED))
    journal.record(entry(4, State.RETRYING, received=NOON + timedelta(hours=1)))
    journal.record(entry(6, State.RECEIVED, landed=None, received=NOON + timedelta(seconds=6)))
    journal.record(entry(2, State.RECEIVED, collection="other"))
    oldest = journal.oldest_waiting("s6a")
    assert oldest is not None
    assert oldest.id == "4"


def test_latencies_are_those_of_the_last_commits_that_have_one(journal: Journal) -> None:
    journal.record(entry(1, settled=NOON + timedelta(seconds=11)))
    journal.record(entry(2, landed=None))
    journal.record(entry(3, landed=None, received=None))
    journal.record(entry(4, State.QUARANTINED))
    journal.record(entry(5, collection="other"))
    assert journal.latencies(collection="s6a") == [10.0, 2.0]
    assert journal.latencies() == [10.0, 2.0, 2.0]
    assert journal.latencies(1) == [10.0]


def test_rebuilding_adds_what_is_missing_and_settles_what_was_waiting(journal: Journal) -> None:
    journal.record(entry(1, State.QUARANTINED, message="kept"))
    journal.record(entry(2, State.RECEIVED))
    journal.rebuild([entry(1, message="not taken"), entry(2), entry(3, State.SKIPPED)])
    states = {e.id: (e.state, e.message) for e in journal.all()}
    assert states == {"1": (State.QUARANTINED, "kept"), "2": (State.COMMITTED, ""), "3": (State.SKIPPED, "")}


def test_a_journal_is_there_after_a_restart(tmp_path: Path) -> None:
    for number in (1, 2):
        journal = Journal(tmp_path)
        journal.record(entry(number))
        found = [e.id for e in journal.all()]
        journal.close()
    assert found == ["1", "2"]


# Read only.


def run_python(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, folder], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def read_ids(folder: Path) -> list[str]:
    reader = Journal(folder, read_only=True)
    try:
        return [e.id for e in reader.all()]
    finally:
        reader.close()


@pytest.mark.parametrize("name", ["state", "what? #1 100%25"])
def test_a_reader_sees_a_journal_in_use_and_one_at_rest_and_leaves_no_trace(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    journal = Journal(folder)
    journal.record(entry(1))
    assert read_ids(folder) == ["1"]
    journal.close()
    assert read_ids(folder) == ["1"]
    assert [p.name for p in folder.iterdir()] == [FILE]


def test_a_reader_sees_one_moment(tmp_path: Path, journal: Journal) -> None:
    journal.record(entry(1))
    reader = Journal(tmp_path, read_only=True)
    try:
        journal.record(entry(2))
        assert [e.id for e in reader.all()] == ["1"]
    finally:
        reader.close()
    assert read_ids(tmp_path) == ["1", "2"]


KILLED = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from daemon.journal import Entry, Journal, State
journal = Journal(Path(sys.argv[1]))
journal.record(Entry("1", "s6a", "bucket", "key", State.RECEIVED, received=datetime.now(UTC)))
os._exit(0)
"""


def test_a_reader_sees_what_a_killed_daemon_left(tmp_path: Path) -> None:
    run_python(KILLED, tmp_path)
    assert (tmp_path / f"{FILE}-wal").stat().st_size > 0
    assert read_ids(tmp_path) == ["1"]


# All is imported first: an interpreter in the home of another user cannot be read by nobody.
READER = """
import os, sys, urllib.parse
from pathlib import Path
from daemon.journal import Journal
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
folder = Path(sys.argv[1])
assert not os.access(folder, os.W_OK)
journal = Journal(folder, read_only=True)
print(*(entry.id for entry in journal.all()))
journal.close()
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_a_reader_needs_no_right_to_write(open_folder: Path, is_killed: bool) -> None:
    if is_killed:
        run_python(KILLED, open_folder)
    else:
        journal = Journal(open_folder)
        journal.record(entry(1))
        journal.close()
    for path in open_folder.iterdir():
        path.chmod(0o444)
    open_folder.chmod(0o555)
    assert run_python(READER, open_folder) == "1"


def test_a_reader_of_no_journal_is_told_so_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StateUnusableError, match="cannot be read as a journal"):
        Journal(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_does_not_write(tmp_path: Path, journal: Journal) -> None:
    journal.record(entry(1))
    reader = Journal(tmp_path, read_only=True)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.record(entry(2))
    finally:
        reader.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_journal_is_named_with_what_to_do(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StateUnusableError) as caught:
        Journal(tmp_path, read_only=read_only)
    assert str(tmp_path / FILE) in str(caught.value)
    assert read_only or "remove it: it is rebuilt" in str(caught.value)


# The state folder.


def test_a_state_folder_has_one_daemon_at_a_time(tmp_path: Path) -> None:
    with owned_state_dir(tmp_path / "a" / "state"):
        with pytest.raises(StateInUseError, match=r"daemon\.state_dir"), owned_state_dir(tmp_path / "a" / "state"):
            pytest.fail("two daemons in one folder")
        with owned_state_dir(tmp_path / "b"):
            pass
    with owned_state_dir(tmp_path / "a" / "state"):
        pass


def test_a_daemon_keeps_its_name(tmp_path: Path) -> None:
    with owned_state_dir(tmp_path / "a") as first:
        pass
    with owned_state_dir(tmp_path / "a") as again, owned_state_dir(tmp_path / "b") as other:
        assert again == first
        assert other != first


def test_a_name_that_a_crash_left_empty_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "instance").touch()
    with owned_state_dir(tmp_path) as name:
        assert name
    assert (tmp_path / "instance").read_text().strip() == name


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StateUnusableError, match=r"file/state .*daemon\.state_dir"),
        owned_state_dir(tmp_path / "file" / "state"),
    ):
        pytest.fail("a folder below a file")


def test_an_error_of_the_owner_is_not_taken_for_one_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), owned_state_dir(tmp_path):
        raise FileNotFoundError
