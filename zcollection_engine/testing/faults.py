"""Faults for a `zcollection_engine.testing.stores.FaultStore`, by name or written as text.

As text a fault is five words::

    <kill|stop|fail|lose|tear> <before|after> <method|*> <key glob> <nth>

``kill after create .zcommits/* 3`` kills the process right after the third record of a commit log was created.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from zcollection_engine.clock import Clock
from zcollection_engine.errors import InvalidInputError, StorageError

Method = Literal["get", "head", "list", "create", "replace", "delete", "exclusive", "flush"]
When = Literal["before", "after"]

#: Called with the operation's method and key.
Callback = Callable[[str, str], None]

#: Seconds after which a fault that waits for an event gives up.
PATIENCE = 120.0


@dataclass(frozen=True)
class Fault:
    """What happens to some operations of a `FaultStore`.

    Attributes
    ----------
    method
        The operation, or "*" for any.
    key
        Glob on the key (the prefix of ``list``, the name of ``exclusive``); "*" crosses "/".
    nth
        The first operation to hit among those that match, counted from 1.
    times
        How many in a row are hit.
    before, after
        Called before the operation is done, and after it was. What they raise reaches the caller.
    halves
        Only the first half of the bytes of a ``create`` or ``replace`` reaches the store.
    """

    method: str
    key: str = "*"
    nth: int = 1
    times: int = 1
    before: Callback | None = None
    after: Callback | None = None
    halves: bool = False

    def matches(self, method: str, key: str) -> bool:
        """Tell whether the fault counts an operation."""
        return self.method in ("*", method) and fnmatchcase(key, self.key)


def fail_before(method: str, key: str = "*", *, nth: int = 1, times: int = 1) -> Fault:
    """Return a fault that raises `StorageError` and leaves the operation undone."""
    return Fault(method, key, nth, times, before=_fail)


def lose_response(method: str, key: str = "*", *, nth: int = 1, times: int = 1) -> Fault:
    """Return a fault that raises `StorageError` although the operation was done."""
    return Fault(method, key, nth, times, after=_fail)


def tear(method: str = "*", key: str = "*", *, nth: int = 1, times: int = 1) -> Fault:
    """Return a fault that writes the first half of an object and raises `StorageError`.

    No store that keeps its promises does so; it shows what a store that writes objects in pieces would leave.
    """
    return Fault(method, key, nth, times, after=_fail, halves=True)


def kill(when: When, method: str, key: str = "*", *, nth: int = 1) -> Fault:
    """Return a fault that ends the process with SIGKILL."""
    return _at(when, _signal(signal.SIGKILL), method, key, nth)


def stop(when: When, method: str, key: str = "*", *, nth: int = 1) -> Fault:
    """Return a fault that stops the process with SIGSTOP, until somebody sends it SIGCONT."""
    return _at(when, _signal(signal.SIGSTOP), method, key, nth)


def delay(
    when: When,
    method: str,
    key: str = "*",
    *,
    until: threading.Event | None = None,
    clock: Clock | None = None,
    seconds: float = 0.0,
    nth: int = 1,
) -> Fault:
    """Return a fault that holds an operation, or its answer, back: until an event, or for some time of a clock.

    Parameters
    ----------
    until
        Waited for, at most `PATIENCE`; then `StorageError` is raised.
    clock, seconds
        Whose `Clock.sleep` is called, and for how long.
    """

    def wait(method: str, key: str) -> None:
        if clock is not None:
            clock.sleep(seconds)
        if until is not None and not until.wait(PATIENCE):
            raise StorageError(f"injected delay: nobody let {method} {key!r} go on within {PATIENCE:g} s", key=key)

    return _at(when, wait, method, key, nth)


def parse_fault(text: str) -> Fault:
    """Read a fault from text (see the module); raises `InvalidInputError`."""
    words = text.split()
    if len(words) != 5 or not words[4].isdecimal() or int(words[4]) < 1:
        raise InvalidInputError(
            f"fault {text!r}: write five words, <kill|stop|fail|lose|tear> <before|after> <method|*> <key glob> <nth>"
        )
    action, when, method, key, nth = *words[:4], int(words[4])
    if method not in ("*", *get_args(Method)):
        raise InvalidInputError(f"fault {text!r}: method {method!r} is none of *, {', '.join(get_args(Method))}")
    match action, when:
        case "kill", "before" | "after":
            return kill(when, method, key, nth=nth)
        case "stop", "before" | "after":
            return stop(when, method, key, nth=nth)
        case "fail", "before":
            return fail_before(method, key, nth=nth)
        case (("lose" | "fail"), "after"):
            return lose_response(method, key, nth=nth)
        case "tear", "after":
            return tear(method, key, nth=nth)
    raise InvalidInputError(
        f"fault {text!r}: {action!r} {when!r} is not possible; kill, stop and fail go before or after, lose and tear"
        " go after"
    )


def _at(when: When, callback: Callback, method: str, key: str, nth: int) -> Fault:
    return Fault(
        method,
        key,
        nth,
        before=callback if when == "before" else None,
        after=callback if when == "after" else None,
    )


def _signal(number: signal.Signals) -> Callback:
    def send(_method: str, _key: str) -> None:
        # To the calling thread, not to the process: only so it is certain that this thread goes no step further.
        signal.raise_signal(number)

    return send


def _fail(method: str, key: str) -> None:
    raise StorageError(f"injected fault: no answer to {method} {key!r}", key=key)
