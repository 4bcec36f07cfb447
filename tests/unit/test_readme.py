"""The README is true: its code runs, its settings load, the files it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.settings import check_runnable, load_settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def block(heading: str, first: str) -> str:
    """The indented block of a section that begins with a line."""
    section = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = iter(section.splitlines())
    found: list[str] = []
    for line in lines:
        if line == f"    {first}" or found:
            if line and not line.startswith("    "):
                break
            found.append(line[4:])
    assert found, f"no block under {heading!r} begins with {first!r}"
    return "\n".join(found)


def run(code: str, folder: Path) -> str:
    """What a program prints, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_example_prints_what_it_says(tmp_path: Path) -> None:
    code = block("The library alone", "import numpy as np")
    printed = run(code, tmp_path)
    said = re.search(r"print\(partition\.path, partition\.rows\) +# (.*)", code)
    assert said is not None
    for line in said[1].split(", "):
        assert line in printed.splitlines()
    assert "(time: 100)" in printed


def test_the_example_of_looking_back_ends_with_the_first_commits_rows(tmp_path: Path) -> None:
    founded = block("The library alone", "import numpy as np")
    looked = block("The library alone", 'collection = open_collection("ssh", mode="w")')
    shown = """
print([float(open_collection("ssh", at=n).load().ssh[1]) > 0 for n in (first, second)])
print([p.path for p in open_collection("ssh").partitions()], float(open_collection("ssh").load().ssh[1]) > 0)
"""
    printed = run(founded + "\n" + looked + shown, tmp_path)
    assert printed.splitlines()[-2:] == ["[True, False]", "['year=2026/month=01'] True"]


def test_the_settings_example_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(block("Your own bucket", "# settings.toml"))
    settings = load_settings(file, environ={})
    check_runnable(settings)
    assert settings.collections[0].granule.axis == "/data_01/time"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_every_linked_file_exists(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_environment_variable_it_names_is_known(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    name, value = re.search(r"`(ZCOLLECTIOND_\w+)=(\d+)`", TEXT).groups()  # type: ignore[union-attr]
    assert load_settings(file, environ={name: value}).dask.workers == int(value)
