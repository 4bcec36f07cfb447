"""Call functions where they may crash, loop or eat memory, and be told which.

A `Sandbox` is a process with one thread that has imported what the functions need and does nothing but fork: each call
runs in a child of its own, with limits of memory, processor time and wall-clock time, and without core dumps. What the
child does to its memory, its libraries or itself reaches neither the next call nor the caller. It contains accidents,
not attackers: a child has the rights of its user.

Linux only: memory is read from ``/proc``, ends are awaited with pidfds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import math
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal, NoReturn, Self

Kind = Literal["returned", "raised", "crashed", "out_of_memory", "timed_out"]

#: Of what a child wrote to its standard output and error, so many bytes of the end are kept.
OUTPUT_NBYTES = 8192

_SIZE = 8
_PAGE_NBYTES = resource.getpagesize()
_PROGRAM = "import sys; from zcollection_engine.testing.sandbox import serve; serve(int(sys.argv[1]))"
#: Libraries that would start threads at import; a process with threads must not fork.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Limits:
    """Of one call.

    Attributes
    ----------
    memory_nbytes
        Bytes of address space above those of the sandbox's process.
    cpu_seconds
        Seconds of processor time, rounded up to whole ones.
    wall_seconds
        Seconds until the child is killed, whatever it does.
    """

    memory_nbytes: int = 1 << 29
    cpu_seconds: float = 10.0
    wall_seconds: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes
    ----------
    kind
        "returned"; "raised"; "crashed" when the child ended without an answer; "out_of_memory" for a `MemoryError`
        that nobody caught; "timed_out" for either limit of time.
    value
        What the function returned.
    error
        What it raised, or a `RuntimeError` with its text where that cannot be pickled.
    status
        Exit code of the child, negative for a signal.
    output
        The end of its standard output and error; with the Python stack for a crash and for too much processor time,
        with the traceback for what was raised.
    peak_nbytes
        Resident memory of the child at its largest, above that at its start. The code of libraries counts when it is
        touched first.
    """

    kind: Kind
    value: Any = None
    error: BaseException | None = None
    status: int = 0
    output: str = ""
    peak_nbytes: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "raised":
                return f"raised {type(self.error).__name__}: {self.error}"
            case "crashed" if self.status < 0:
                return f"crashed by signal {-self.status} ({signal.strsignal(-self.status)})"
            case "crashed":
                return f"ended with exit code {self.status} and without an answer"
            case "timed_out" if self.status == -signal.SIGXCPU:
                return "timed out: too much processor time"
            case "timed_out":
                return "timed out: too much wall-clock time"
        return self.kind.replace("_", " ")


class SandboxError(RuntimeError):
    """The sandbox's own process is gone."""


class Sandbox:
    """A process that forks for each call. A context manager; one thread at a time may use it.

    Parameters
    ----------
    preload
        Modules that the sandbox imports once; a child has them without importing.
    limits
        Of a call that has none of its own.

    Raises
    ------
    SandboxError
        At entry if a module cannot be imported; its traceback goes to standard error.
    """

    def __init__(self, preload: Sequence[str] = (), limits: Limits = Limits()) -> None:
        self._preload = tuple(preload)
        self._limits = limits

    def __enter__(self) -> Self:
        self._calls, theirs = Pipe()
        environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            self._ask(pickle.dumps(self._preload))
        except SandboxError:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, function: Callable[..., Any], *args: Any, limits: Limits | None = None) -> Outcome:
        """Call a function in a child and return how that ended.

        Parameters
        ----------
        function
            Importable by its module and name in the sandbox.
        args
            What pickle can carry.
        limits
            Of this call.
        """
        self._calls.send_bytes(pickle.dumps(limits or self._limits))
        outcome: Outcome = self._ask(pickle.dumps((function, args)))
        return outcome

    @property
    def pid(self) -> int:
        """Of the process that forks."""
        return self._process.pid

    def _ask(self, message: bytes) -> Any:
        try:
            self._calls.send_bytes(message)
            return self._calls.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise SandboxError(f"the sandbox's process ended with {code}; its standard error tells why") from error

    def _end(self) -> None:
        self._calls.close()
        self._process.wait()


def serve(fd: int) -> None:
    """Fork for the calls that come through a socket until its other end is closed: the sandbox's process."""
    with Connection(fd) as calls, tempfile.TemporaryFile() as output:
        for name in pickle.loads(calls.recv_bytes()):  # noqa: S301 - from the process that started this one
            importlib.import_module(name)
        calls.send(None)
        with contextlib.suppress(EOFError):
            while True:
                limits = pickle.loads(calls.recv_bytes())  # noqa: S301 - the same
                calls.send(_call(calls.recv_bytes(), limits, output.fileno(), calls))


def _call(job: bytes, limits: Limits, output: int, calls: Connection) -> Outcome:
    os.ftruncate(output, 0)
    os.lseek(output, 0, os.SEEK_SET)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        calls.close()
        os.close(reader)
        _be_child(job, limits, writer, output)
    os.close(writer)
    answer, killed, status, peak = _await(pid, reader, time.monotonic() + limits.wall_seconds)
    os.close(reader)
    tail = os.pread(output, OUTPUT_NBYTES, max(0, os.fstat(output).st_size - OUTPUT_NBYTES)).decode(errors="replace")
    start, answer = int.from_bytes(answer[:_SIZE], "little"), answer[_SIZE:]
    peak = max(0, peak - start)
    if killed or status == -signal.SIGXCPU:
        return Outcome("timed_out", status=status, output=tail, peak_nbytes=peak)
    if status or not answer:
        return Outcome("crashed", status=status, output=tail, peak_nbytes=peak)
    kind, value, error, trace = pickle.loads(answer)  # noqa: S301 - from our own child
    return Outcome(kind, value, error, status, f"{tail}{trace}", peak)


def _await(pid: int, reader: int, deadline: float) -> tuple[bytes, bool, int, int]:
    """Take a child's answer and its end, or kill it at the deadline.

    Returns
    -------
    tuple
        Its resident memory at its start in the first `_SIZE` bytes, and its answer; whether it was killed; its status;
        the largest size of its resident memory in bytes.
    """
    parts: list[bytes] = []
    # Not the pipe's end alone: a child may close it and live on.
    ended = os.pidfd_open(pid)
    waiting = [reader, ended]
    killed = False
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            killed = True
            break
        if reader not in ready:
            waiting.remove(ended)
        elif part := os.read(reader, 1 << 20):
            parts.append(part)
        else:
            waiting.remove(reader)
    os.close(ended)
    _, code, usage = os.wait4(pid, 0)
    return b"".join(parts), killed, os.waitstatus_to_exitcode(code), usage.ru_maxrss * 1024


def _be_child(job: bytes, limits: Limits, writer: int, output: int) -> NoReturn:
    status = 1
    try:
        os.write(writer, _memory_nbytes(resident=True).to_bytes(_SIZE, "little"))
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable(2)
        faulthandler.register(signal.SIGXCPU, 2, chain=True)
        answer = _answer(job, _confine(limits))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(_pickled(answer))
        status = 0
    except BaseException:  # noqa: BLE001 - a child must end here, never go on in its parent's stead
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _confine(limits: Limits) -> Callable[[], None]:
    """Confine this process; what is returned gives it memory to answer with."""
    # One byte, not none: with none, a kernel that pipes core dumps into a program still does so.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    seconds = max(1, math.ceil(limits.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _memory_nbytes() + limits.memory_nbytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    return partial(resource.setrlimit, resource.RLIMIT_AS, before)


def _answer(job: bytes, release: Callable[[], None]) -> tuple[Kind, Any, BaseException | None, str]:
    """Do the job. Whatever comes, there is memory again before the answer is made: a traceback keeps what was held."""
    try:
        function, args = pickle.loads(job)  # noqa: S301 - from the process that started the sandbox
        value = function(*args)
    except MemoryError:
        release()
        return "out_of_memory", None, None, traceback.format_exc()
    except BaseException as error:  # noqa: BLE001 - told to the caller, whatever it is
        release()
        return "raised", None, error, traceback.format_exc()
    release()
    return "returned", value, None, ""


def _pickled(answer: tuple[Kind, Any, BaseException | None, str]) -> bytes:
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # noqa: S301 - made on the line before
    except Exception as error:  # noqa: BLE001 - objects refuse in many ways
        kind, _, raised, trace = answer
        if raised is None:
            return pickle.dumps(("raised", None, TypeError(f"the value cannot be pickled: {error}"), trace))
        return pickle.dumps((kind, None, RuntimeError(f"{type(raised).__name__}: {raised}"), trace))
    return data


def _memory_nbytes(*, resident: bool = False) -> int:
    """Size of this process in bytes: its address space, or what of it is in memory."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - in a child every allocation counts
        return int(file.read().split()[resident]) * _PAGE_NBYTES
