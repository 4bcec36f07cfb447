"""What our side and a reader in another environment tell each other: a task in JSON, an answer in one .npz file.

Both sides import this module, so it needs nothing but NumPy. A reader is started as ``python READER.py TASK ANSWER``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_FACTS = "facts"


@dataclass
class Answer:
    """What a reader found.

    Attributes
    ----------
    values
        Arrays by name, which begins with the way they were read: "tree/days/year=2023/month=12/day=16/ku/range".
    refused
        Messages by the same names, for what the reader says it cannot read.
    facts
        Anything else, JSON values; ``versions`` by package, and ``error`` if the reader did not open the thing at all.
    """

    values: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def take(self, name: str, read: Callable[[], Any], refusals: tuple[type[Exception], ...]) -> None:
        """Keep what ``read`` returns, or one of the errors by which the reader refuses."""
        try:
            self.values[name] = read()
        except refusals as error:
            self.refused[name] = f"{type(error).__name__}: {error}"[:300]

    def save(self, path: str | Path) -> None:
        """Write it down; text becomes fixed-width Unicode."""
        arrays: dict[str, Any] = {name: plain(np.ma.getdata(values)) for name, values in self.values.items()}
        facts = json.dumps({"refused": self.refused, "facts": self.facts})
        np.savez(path, **arrays, **{_FACTS: np.array(facts)})

    @classmethod
    def load(cls, path: str | Path) -> Answer:
        with np.load(path) as file:
            told = json.loads(str(file[_FACTS]))
            values = {name: file[name] for name in file.files if name != _FACTS}
        return cls(values, told["refused"], told["facts"])


def plain(values: Any) -> Any:
    """Values without objects: text as fixed-width Unicode."""
    return values.astype(object).astype(str) if values.dtype.kind in "OT" else values


def answer_task(reader: Callable[[dict[str, Any], Answer], None]) -> None:
    """Run a reader on the task and for the answer that the command line names."""
    task, path = json.loads(Path(sys.argv[1]).read_text("utf-8")), sys.argv[2]
    answer = Answer()
    reader(task, answer)
    answer.save(path)


def places(task: dict[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """Name and folder of each of the "partitions", "groups" or "arrays" that a task names, in all collections."""
    for name, collection in task["collections"].items():
        for path in collection[kind]:
            yield f"{name}/{path}", f"{collection['root']}/{path}"
