"""Shows how far the daemon is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.journal import Entry, State

#: Settled granules between two lines where there is no terminal.
_EVERY = 10


class Watcher:
    """The daemon's observer: remembers what is settled, shows it, and tells one other.

    Parameters
    ----------
    show
        Is told how many are settled, and how many of them are in.
    also
        Is told of each.
    """

    def __init__(self, show: Callable[[int, int], None], also: Callable[[Entry], None]) -> None:
        self._show = show
        self._also = also
        self.entries: list[Entry] = []

    def settled(self, entry: Entry) -> None:
        """See `daemon.pipeline.Observer`."""
        self.entries.append(entry)
        self._also(entry)
        self._show(len(self.entries), sum(e.state is State.COMMITTED for e in self.entries))


@contextmanager
def display(console: Console, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show progress while the context lasts: a bar on a terminal, a few lines elsewhere.

    Yields what is to be called with the number of settled granules, and of those that are in.
    """
    if not console.is_terminal:
        yield lambda settled, visible: _line(console, settled, visible, total)
        return
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as progress:
        task = progress.add_task("starting", total=total)

        def show(settled: int, visible: int) -> None:
            progress.update(task, completed=settled, description=f"{visible} in, {settled - visible} refused")

        yield show


def _line(console: Console, settled: int, visible: int, total: int) -> None:
    if settled % _EVERY == 0 or settled == total:
        console.print(f"  {settled} of {total} settled, {visible} in")
