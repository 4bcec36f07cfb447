"""Errors of the daemon itself, grouped by what a handler does about them.

::

    DaemonError
    ├── SettingsError            the operator's input is wrong: print it and exit with code 2
    ├── StateInUseError          another daemon has the state folder: print it and exit with code 3
    ├── StateUnusableError       the journal or its folder is damaged or not writable: print it and exit with code 3
    ├── ClusterUnavailableError  no Dask scheduler: print it and exit with code 3
    └── SourceUnavailableError   a source's environment failed, often for a moment: back off and ask again

What the engine raises keeps its own tree, `zcollection_engine.errors`.
"""

from __future__ import annotations

from typing import ClassVar


class DaemonError(Exception):
    """Root of all errors of the daemon. A handler that knows no more specific class ends the program.

    Attributes
    ----------
    exit_code
        What the process returns when the error ends it.
    """

    exit_code: ClassVar[int] = 3


class SettingsError(DaemonError):
    """The settings cannot be used; trying again cannot help.

    The handler prints the message, which has one line for each problem, and exits with code 2. No traceback:
    the lines name the file, the key and what to do.

    Parameters
    ----------
    problems
        One line each.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SourceUnavailableError(DaemonError):
    """A source could not be asked: its service is unreachable, throttles, or refuses the credentials.

    The handler counts it, backs off and asks again; no granule is blamed for it.
    """


class StateInUseError(DaemonError):
    """Another daemon has the state folder; each needs its own."""


class ClusterUnavailableError(DaemonError):
    """The Dask scheduler cannot be reached, or the local cluster cannot be started."""


class StateUnusableError(DaemonError):
    """The state folder or the journal in it cannot be used: print it and exit with code 3."""
