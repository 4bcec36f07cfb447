"""The scheduler itself: one task at a time, in virtual time, and no hidden way on for the dead."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import zarr

from zcollection_engine.errors import PreconditionFailedError, StorageError
from zcollection_engine.testing.inline import TaskPool, tasks_for_threads
from zcollection_engine.testing.processes import Disturbances, Process
from zcollection_engine.testing.schedule import Schedule, ScheduleError, VirtualClock
from zcollection_engine.testing.scheduled import ScheduledStore, VirtualMemoryStore
from zcollection_engine.testing.waiting import TaskEvent, TaskLock, TaskThread


def _ignore(_method: str, _key: str) -> None:
    pass


def _store(schedule: Schedule, process: Process) -> tuple[VirtualMemoryStore, ScheduledStore]:
    inner = VirtualMemoryStore(f"memory://{uuid.uuid4().hex}", schedule)
    return inner, ScheduledStore(inner, schedule, process, _ignore)


def _run(*functions: Callable[[], None], schedule: Schedule, process: Process | None = None) -> None:
    for number, function in enumerate(functions):
        schedule.spawn(process or Process(f"p{number}"), f"t{number}", function)
    schedule.run()


class TestTasks:
    @pytest.mark.parametrize("seed", range(5))
    def test_exactly_one_runs_at_a_time(self, seed: int) -> None:
        schedule = Schedule(seed)
        running: list[int] = []
        most = []

        def act() -> None:
            for _ in range(20):
                running.append(1)
                time.sleep(0)  # an invitation to any other thread
                most.append(len(running))
                running.pop()
                schedule.switch()

        _run(act, act, act, schedule=schedule)
        assert set(most) == {1}
        assert schedule.steps == 60

    def test_the_order_follows_from_the_seed(self) -> None:
        def order(seed: int) -> str:
            schedule = Schedule(seed)
            seen: list[str] = []

            def actor(name: str) -> Callable[[], None]:
                def act() -> None:
                    for _ in range(10):
                        seen.append(name)
                        schedule.switch()

                return act

            _run(actor("a"), actor("b"), actor("c"), schedule=schedule)
            return "".join(seen)

        assert order(1) == order(1)
        assert len({order(seed) for seed in range(5)}) == 5

    def test_an_error_ends_the_schedule_and_is_told_with_the_seed(self) -> None:
        schedule = Schedule(11)

        def act() -> None:
            raise ValueError("something is wrong")

        with pytest.raises(ScheduleError, match=r"(?s)seed 11: task t0 failed.*something is wrong"):
            _run(act, schedule=schedule)

    def test_a_task_that_blocks_for_real_is_found_with_its_stack(self) -> None:
        schedule, never = Schedule(0, patience=0.2), threading.Event()

        def stuck_here() -> None:
            never.wait(5)

        with pytest.raises(ScheduleError, match=r"(?s)stuck for 0\.2 s.*stuck_here"):
            _run(stuck_here, schedule=schedule)
        never.set()

    def test_tasks_that_wait_for_each_other_are_found(self) -> None:
        schedule, first, second = Schedule(0), TaskEvent(), TaskEvent()
        with pytest.raises(ScheduleError, match="every task waits"):
            _run(lambda: _check(first.wait()), lambda: _check(second.wait()), schedule=schedule)

    def test_a_schedule_without_end_is_found(self) -> None:
        schedule = Schedule(0, max_steps=500)

        def act() -> None:
            while True:
                schedule.switch()

        with pytest.raises(ScheduleError, match="not finished after 500 steps"):
            _run(act, schedule=schedule)


class TestTime:
    def test_it_passes_only_when_all_tasks_sleep(self) -> None:
        schedule = Schedule(0)
        clock = VirtualClock(schedule)
        woken: list[tuple[str, float]] = []

        def sleeper(name: str, seconds: float) -> Callable[[], None]:
            def act() -> None:
                clock.sleep(seconds)
                woken.append((name, clock.monotonic()))

            return act

        began = time.monotonic()
        _run(sleeper("late", 3600.0), sleeper("early", 5.0), schedule=schedule)
        assert woken == [("early", 5.0), ("late", 3600.0)]
        assert time.monotonic() - began < 60

    def test_the_store_has_it_too_and_a_process_may_be_wrong(self) -> None:
        schedule, process = Schedule(0, Disturbances(latency=1.0)), Process("p", skew=30.0)
        inner, store = _store(schedule, process)
        clock = VirtualClock(schedule, process.skew)
        _run(lambda: _check(store.create("x", b"1")), schedule=schedule, process=process)
        assert schedule.now > 0
        assert (clock.now() - inner.head("x").modified).total_seconds() == pytest.approx(30.0)

    def test_a_paused_process_stands_still_as_a_whole(self) -> None:
        schedule = Schedule(3, Disturbances(pause=0.3, longest=1000.0))
        pauses = []

        def act() -> None:
            for _ in range(10):
                before = schedule.now
                schedule.switch()
                pauses.append(schedule.now - before)

        _run(act, schedule=schedule)
        assert max(pauses) > 1.0


class TestDeath:
    def test_the_dead_do_nothing_more(self) -> None:
        schedule, process = Schedule(0, Disturbances(death=1.0, deaths=1)), Process("mortal")
        inner, store = _store(schedule, process)
        cleaned: list[str] = []

        def act() -> None:
            try:
                store.create("x", b"1")
            finally:
                cleaned.append("tried")
                store.create("y", b"1")

        _run(act, lambda: schedule.sleep(10.0), schedule=schedule, process=process)
        assert process.dead
        assert cleaned == ["tried"]
        assert list(inner.list()) == []

    def test_others_are_told_and_go_on(self) -> None:
        schedule, process = Schedule(0, Disturbances(death=1.0, deaths=1)), Process("mortal")
        born: list[str] = []

        def restart(died: Process) -> None:
            schedule.spawn(Process("next", steady=True), "next", lambda: born.append(died.name), after=5.0)

        schedule.on_death = restart
        _run(schedule.switch, schedule=schedule, process=process)
        assert born == ["mortal"]
        assert schedule.now == 5.0


class TestStore:
    def test_operations_are_traced_with_their_outcome(self) -> None:
        schedule, process = Schedule(0), Process("p")
        _, store = _store(schedule, process)

        def act() -> None:
            store.create("x", b"1")
            with pytest.raises(PreconditionFailedError):
                store.create("x", b"1")

        _run(act, schedule=schedule, process=process)
        assert [(s.task, s.method, s.key, s.outcome) for s in schedule.trace] == [
            ("t0", "create", "x", "ok"),
            ("t0", "create", "x", "precondition_failed"),
        ]

    def test_a_listing_comes_in_pages(self) -> None:
        schedule, process = Schedule(0), Process("p")
        inner, store = _store(schedule, process)
        names = [f"{i:02d}" for i in range(20)]
        for name in names:
            inner.put(name, b"1")
        found: list[str] = []
        _run(lambda: found.extend(info.key for info in store.list()), schedule=schedule, process=process)
        assert found == names
        assert len(schedule.trace) == 3

    def test_a_failure_leaves_an_operation_undone_and_a_lost_answer_done(self) -> None:
        for disturbances, done in ((Disturbances(failed=1.0), False), (Disturbances(lost=1.0), True)):
            schedule, process = Schedule(0, disturbances), Process("p")
            inner, store = _store(schedule, process)

            def act(store: ScheduledStore = store) -> None:
                with pytest.raises(StorageError, match="injected"):
                    store.create("x", b"1")

            _run(act, schedule=schedule, process=process)
            assert bool(list(inner.list())) is done

    def test_etags_never_recur(self) -> None:
        store = VirtualMemoryStore("memory://etags", Schedule(0))
        etags = [store.put("x", b"1") for _ in range(3)]
        assert len(set(etags)) == 3


class TestThreadsAsTasks:
    def test_a_lock_gives_way(self) -> None:
        schedule, lock, process = Schedule(2), TaskLock(), Process("p")
        inside: list[int] = []

        def act() -> None:
            for _ in range(5):
                with lock, lock:
                    inside.append(1)
                    schedule.sleep(1.0)
                    assert inside == [1]
                    inside.pop()

        _run(act, act, act, schedule=schedule, process=process)
        assert schedule.now == pytest.approx(15.0)

    def test_an_event_is_waited_for_in_virtual_time(self) -> None:
        schedule, event, process = Schedule(0), TaskEvent(), Process("p")
        results: list[tuple[bool, float]] = []

        def wait() -> None:
            results.append((event.wait(30.0), schedule.now))
            results.append((event.wait(), schedule.now))

        def set_later() -> None:
            schedule.sleep(100.0)
            event.set()

        _run(wait, set_later, schedule=schedule, process=process)
        assert results == [(False, 30.0), (True, 100.0)]

    def test_a_thread_is_a_task_of_the_same_process(self) -> None:
        schedule, process = Schedule(0), Process("p")
        seen: list[str] = []

        def act() -> None:
            thread = TaskThread(target=lambda: seen.append("thread"), daemon=True)
            thread.start()
            thread.join()
            seen.append("joined")

        _run(act, schedule=schedule, process=process)
        assert seen == ["thread", "joined"]

    def test_a_pool_does_all_its_work_in_a_drawn_order(self) -> None:
        orders: set[tuple[int, ...]] = set()
        for seed in range(6):
            seen: list[int] = []

            def act(seen: list[int] = seen) -> None:
                with TaskPool(4) as pool:
                    futures = [pool.submit(_append_and_fail_at, seen, i, failing=2) for i in range(5)]
                    assert futures[4].result() == 4
                    with pytest.raises(ValueError, match="2"):
                        futures[2].result()
                    assert list(pool.map(str, range(3))) == ["0", "1", "2"]

            _run(act, schedule=Schedule(seed))
            assert sorted(seen) == [0, 1, 2, 3, 4]
            orders.add(tuple(seen))
        assert len(orders) > 1

    @pytest.fixture
    def _in_steps(self) -> Iterator[None]:
        with tasks_for_threads():
            yield

    @pytest.mark.usefixtures("_in_steps")
    def test_chunks_outlive_the_failure_of_another_one(self) -> None:
        schedule = Schedule(0)
        tried: list[str] = []
        at_the_error: list[int] = []

        class Store(zarr.storage.MemoryStore):
            async def set(self, key: str, value: zarr.core.buffer.Buffer, byte_range: None = None) -> None:
                tried.append(key)
                if len(tried) == 3:
                    raise StorageError("injected")
                await super().set(key, value)

        def act() -> None:
            array = zarr.create_array(Store(), shape=(8,), chunks=(1,), dtype="i4")
            tried.clear()
            with pytest.raises(StorageError, match="injected"):
                array[:] = range(1, 9)
            at_the_error.append(len(tried))
            schedule.switch()

        _run(act, schedule=schedule)
        assert at_the_error == [3]
        assert sorted(tried) == [f"c/{i}" for i in range(8)]


def _append_and_fail_at(seen: list[int], number: int, *, failing: int) -> int:
    seen.append(number)
    if number == failing:
        raise ValueError(str(number))
    return number


def _check(_result: object) -> None:
    """Turn an expression into a statement."""
