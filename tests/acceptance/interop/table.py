"""The table of readers in the README, made from what readers really read.

python -m tests.acceptance.interop.table     # prints it; readers that cannot be installed here are left out
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.interop.exchange import Answer
from tests.acceptance.interop.readers import READERS, Reader, differences, kind, read, wanted
from tests.acceptance.interop.scenes import FORMATS, Scene, our_scene
from tests.environments import EnvironmentMissingError, python_of

HEAD = ("Reader", "Version", "Python", "Opens", *(f"Zarr v{f}" for f in FORMATS))


@dataclass
class Results:
    """What readers find in our collections; everything is made when it is first asked for, and kept."""

    folder: Path
    _scenes: dict[int, Scene] = field(default_factory=dict)
    _answers: dict[tuple[str, int], Answer] = field(default_factory=dict)

    def scene(self, zarr_format: int) -> Scene:
        if zarr_format not in self._scenes:
            folder = self.folder / f"v{zarr_format}"
            folder.mkdir()
            self._scenes[zarr_format] = our_scene(folder, zarr_format)
        return self._scenes[zarr_format]

    def answer(self, reader: Reader, zarr_format: int) -> Answer:
        """Raises `EnvironmentMissingError` if the reader cannot be had."""
        key = reader.name, zarr_format
        if key not in self._answers:
            python = python_of(reader.environment)
            place = self.folder / f"{reader.name}-v{zarr_format}"
            self._answers[key] = read(reader, python, self.scene(zarr_format), place)
        return self._answers[key]


def row(reader: Reader, results: Results) -> str:
    """The line of a reader; raises `EnvironmentMissingError` if it cannot be had."""
    answers = {f: results.answer(reader, f) for f in FORMATS}
    verdicts = [_verdict(reader, answers[f], results.scene(f)) for f in FORMATS]
    return _line([reader.title, _version(answers), reader.environment.python, reader.opens, *verdicts])


def head() -> list[str]:
    """The first two lines."""
    return [_line(HEAD), _line(["---"] * len(HEAD))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _version(answers: Mapping[int, Answer]) -> str:
    (first, version), *others = next(iter(answers.values())).facts["versions"].items()
    with_others = ", ".join(f"{name} {number}" for name, number in others)
    return f"{version} ({with_others})" if others else f"{version}" if first else ""


def _verdict(reader: Reader, answer: Answer, scene: Scene) -> str:
    if "error" in answer.facts:
        return "no"
    expected = wanted(reader, scene)
    if differences(answer.values, {n: v for n, v in expected.items() if n not in answer.refused}):
        return "wrong"
    refused = {kind(name, expected[name], scene) for name in answer.refused}
    return f"all but {' and '.join(sorted(refused))}" if refused else "all"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        lines = head()
        for reader in READERS:
            try:
                lines.append(row(reader, results))
            except EnvironmentMissingError as error:
                sys.stderr.write(f"{reader.name} is left out: {error}\n")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
