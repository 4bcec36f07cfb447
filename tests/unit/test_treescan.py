"""The look at a tree that released zcollection wrote: every difference is found, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest

from zcollection_engine.errors import FormatError, NotFoundError
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.treefindings import Code, Severity
from zcollection_engine.treescan import ImportedTree, scan

JANUARY, FEBRUARY = "year=2000/month=01", "year=2000/month=02"


def array(name: str, values: npt.NDArray[Any], dimensions: list[str], **changed: Any) -> dict[str, Any]:
    """An array with its values, in one chunk unless ``chunks`` says otherwise."""
    return {"name": name, "values": values, "dimensions": dimensions, "chunks": list(values.shape), **changed}


def hours(start: str, count: int) -> npt.NDArray[Any]:
    return np.datetime64(start, "us") + np.arange(count) * np.timedelta64(1, "h")


def arrays(start: str = "2000-01-10", rows: int = 5) -> dict[str, dict[str, Any]]:
    """What a partition has, by name."""
    packed = array("packed", np.arange(rows, dtype="<i4"), ["time"], fill_value=-1, compressor=numcodecs.Zstd(3))
    profile = array("profile", np.arange(rows * 3, dtype="<f4").reshape(rows, 3), ["time", "pixel"], chunks=[4, 2])
    made = array("time", hours(start, rows), ["time"], compressor=numcodecs.Blosc()), packed, profile
    return {item["name"]: item for item in made}


class Tree:
    """Writes a tree as zcollection lays it out."""

    def __init__(self) -> None:
        self.store = MemoryStore(f"memory://{uuid4().hex}")
        self.partitions = {JANUARY: arrays(), FEBRUARY: arrays("2000-02-03", 9)}
        self.immutable: dict[str, dict[str, Any]] | None = None
        self.partitioning: dict[str, Any] = {"id": "Date", "variables": ["time"], "resolution": "M"}
        self.extra: dict[str, bytes] = {}
        self.lost: list[str] = []

    def scan(self) -> ImportedTree:
        for path, members in self.partitions.items():
            self._group(path, members)
        if self.immutable is not None:
            self._group(".immutable", self.immutable)
        for key, body in {".zcollection": json.dumps(self._config()).encode(), **self.extra}.items():
            self.store.delete(key)
            self.store.create(key, body)
        for key in self.lost:
            self.store.head(key)
            self.store.delete(key)
        before = {i.key: i.etag for i in self.store.list()}
        found = scan(self.store)
        assert {i.key: i.etag for i in self.store.list()} == before
        return found

    def codes(self) -> dict[Code, str]:
        """Codes found, with the place of the first."""
        found: dict[Code, str] = {}
        for finding in self.scan().findings:
            found.setdefault(finding.code, f"{finding.partition} {finding.variable}".strip())
        return found

    def _config(self) -> dict[str, Any]:
        members = [
            {
                "attrs": [],
                "compressor": _config(item.get("compressor")),
                "dimensions": item["dimensions"],
                "dtype": item["values"].dtype.str,
                "fill_value": item.get("fill_value"),
                "filters": [],
                "name": name,
            }
            for name, item in {**arrays(), **(self.immutable or {})}.items()
        ]
        dataset = {"attrs": [], "dimensions": ["time", "pixel"], "variables": members}
        return {"axis": "time", "dataset": dataset, "partitioning": self.partitioning}

    def _group(self, path: str, members: Mapping[str, dict[str, Any]]) -> None:
        metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": {}}
        for name, item in members.items():
            values, chunks = item["values"], item["chunks"]
            metadata[f"{name}/.zarray"] = {
                "chunks": chunks,
                "compressor": _config(item.get("compressor")),
                "dtype": values.dtype.str,
                "fill_value": item.get("fill_value"),
                "filters": None,
                "order": "C",
                "shape": list(values.shape),
                "zarr_format": 2,
            }
            metadata[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": item["dimensions"]}
            for index in np.ndindex(*(-(-s // c) for s, c in zip(values.shape, chunks, strict=True))):
                chunk = np.zeros(chunks, values.dtype)
                part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))]
                chunk[tuple(slice(n) for n in part.shape)] = part
                body = item["compressor"].encode(chunk) if "compressor" in item else chunk.tobytes()
                self.store.create(f"{path}/{name}/{'.'.join(map(str, index)) or '0'}", bytes(body))
        document = {"metadata": metadata, "zarr_consolidated_format": 1}
        self.store.create(f"{path}/.zmetadata", json.dumps(document).encode())


def _config(codec: Any) -> dict[str, Any] | None:
    return None if codec is None else dict(codec.get_config())


@pytest.fixture
def tree() -> Tree:
    return Tree()


def test_a_whole_tree_has_no_findings(tree: Tree) -> None:
    tree.immutable = {"lon": array("lon", np.arange(3.0), ["pixel"])}
    found = tree.scan()
    assert found.findings == ()
    january, february = found.partitions
    assert (january.path, january.rows, january.chunks, january.absent) == (JANUARY, 5, 2 + 4, 0)
    first, last = (int(t.astype("M8[us]").astype("i8")) for t in hours("2000-02-03", 9)[[0, -1]])
    assert (february.rows, february.axis) == (9, (first, last))
    assert february.etag == tree.store.head(f"{FEBRUARY}/.zmetadata").etag
    assert found.immutable is not None
    assert found.schema.sizes == {"time": None, "pixel": 3}
    assert found.schema["time"].attributes["units"] == "microseconds since 1970-01-01"


def test_a_partition_tells_the_layout_of_its_own(tree: Tree) -> None:
    found = tree.scan()
    assert found.partitions[0].layouts["time"].chunks == (5,)
    assert found.partitions[1].layouts["time"].chunks == (9,)
    assert found.partitions[1].layouts["profile"].chunks == (4, 2)


def test_partitions_come_in_the_order_of_their_numbers(tree: Tree) -> None:
    tree.partitioning = {"id": "Sequence", "variables": ["cycle"]}
    tree.partitions = {f"cycle={n}": arrays() for n in (10, 9, -1, 100)}
    assert [p.path for p in tree.scan().partitions] == ["cycle=-1", "cycle=9", "cycle=10", "cycle=100"]


def test_a_grouped_sequence_is_walked(tree: Tree) -> None:
    tree.partitioning = {"id": "GroupedSequence", "variables": ["cycle", "pass"], "size": 10, "start": 1}
    tree.partitions = {"cycle=1/pass=11": arrays(), "cycle=1/pass=1": arrays(), "cycle=1/pass=5": arrays()}
    found = tree.scan()
    assert [p.path for p in found.partitions] == ["cycle=1/pass=1", "cycle=1/pass=11"]
    assert [(f.code, f.partition) for f in found.faults] == [(Code.MISSPELT, "cycle=1/pass=5")]


def test_a_damaged_first_partition_does_not_hide_the_sizes(tree: Tree) -> None:
    tree.lost = [f"{JANUARY}/.zmetadata"]
    found = tree.scan()
    assert found.schema.sizes["pixel"] == 3
    assert [p.path for p in found.partitions] == [FEBRUARY]


def test_an_empty_tree_asks_for_the_size_of_its_dimensions(tree: Tree) -> None:
    tree.partitions = {}
    with pytest.raises(FormatError, match="'pixel'"):
        tree.scan()


def test_there_must_be_a_collection(tree: Tree) -> None:
    with pytest.raises(NotFoundError, match=r"\.zcollection"):
        scan(tree.store)


def test_a_damaged_file_is_named_with_its_url(tree: Tree) -> None:
    tree.extra = {".zcollection": b"{"}
    with pytest.raises(FormatError, match=f"{tree.store.url}/.zcollection is damaged"):
        tree.scan()


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"values": np.arange(5, dtype="<i8")}, Code.DTYPE),
        ({"values": np.arange(5, dtype=">i4")}, Code.BYTE_ORDER),
        ({"fill_value": 7}, Code.FILL_VALUE),
        ({"fill_value": None}, Code.UNDEFINED_FILL_VALUE),
        ({"compressor": numcodecs.Zstd(1)}, Code.CODECS),
        ({"dimensions": ["pixel"]}, Code.DIMENSIONS),
        ({"values": np.arange(6, dtype="<i4"), "chunks": [6]}, Code.ROWS),
    ],
)
def test_a_variable_that_differs_is_found(tree: Tree, changed: Mapping[str, Any], code: Code) -> None:
    tree.partitions[JANUARY]["packed"] |= changed
    found = tree.codes()
    assert code in found
    assert found[code] == (JANUARY if code is Code.ROWS else f"{JANUARY} packed")


def test_another_inner_size_is_found(tree: Tree) -> None:
    tree.partitions[FEBRUARY]["profile"] |= {"values": np.zeros((9, 4), "<f4")}
    assert tree.codes() == {Code.INNER_SIZE: f"{FEBRUARY} profile"}


def test_chunks_other_than_the_file_says_are_found_and_a_chunk_cut_at_the_end_is_not(tree: Tree) -> None:
    def with_chunks(length: int) -> dict[Code, str]:
        made = Tree()
        made._config = lambda: {  # type: ignore[method-assign]
            **(plain := tree._config()),
            "dataset": {**plain["dataset"], "chunks": [["time", length], ["pixel", 2]]},
        }
        for members in made.partitions.values():
            members["profile"]["chunks"] = [members["time"]["values"].size, 2]
        return made.codes()

    assert with_chunks(100) == {}
    assert with_chunks(3) == {Code.CHUNKS: f"{JANUARY} time"}


def test_missing_and_unknown_variables_are_found(tree: Tree) -> None:
    tree.partitions[JANUARY]["more"] = array("more", np.zeros(5), ["time"])
    del tree.partitions[FEBRUARY]["packed"]
    assert tree.codes() == {Code.UNKNOWN_VARIABLE: f"{JANUARY} more", Code.MISSING_VARIABLE: f"{FEBRUARY} packed"}


def test_a_partition_without_metadata_is_found(tree: Tree) -> None:
    tree.lost = [f"{FEBRUARY}/.zmetadata"]
    found = tree.scan()
    assert [p.path for p in found.partitions] == [JANUARY]
    assert [(f.code, f.partition) for f in found.faults] == [(Code.NO_METADATA, FEBRUARY)]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b'{"metadata": {}}',
        b'{"metadata": {".zgroup": {}, "g/.zgroup": {}}}',
        b'{"metadata": {".zgroup": {}, "a/.zarray": {}}}',
    ],
)
def test_damaged_metadata_are_found(tree: Tree, body: bytes) -> None:
    tree.extra = {f"{FEBRUARY}/.zmetadata": body}
    assert tree.codes() == {Code.DAMAGED_METADATA: FEBRUARY}


def test_a_chunk_that_is_not_there_stands_for_the_fill_value_if_there_is_one(tree: Tree) -> None:
    tree.lost = [f"{JANUARY}/packed/0"]
    assert tree.codes() == {Code.ABSENT_CHUNKS: f"{JANUARY} packed"}
    found = scan(tree.store)
    assert (found.partitions[0].chunks, found.partitions[0].absent) == (5, 1)
    assert found.faults == ()


def test_a_chunk_that_is_not_there_without_a_fill_value_is_a_fault(tree: Tree) -> None:
    tree.lost = [f"{JANUARY}/profile/1.0"]
    assert tree.codes() == {Code.UNDEFINED_CHUNKS: f"{JANUARY} profile"}


def test_chunks_behind_the_end_do_not_count(tree: Tree) -> None:
    tree.extra = {f"{JANUARY}/profile/{key}": b"" for key in ("2.0", "0.2", "0", "0.0.0", "x")}
    tree.lost = [f"{JANUARY}/profile/0.0"]
    found = tree.scan()
    assert ["1 of 4 chunks" in f.message for f in found.findings] == [True]
    assert (found.partitions[0].chunks, found.partitions[0].absent) == (5, 1)


def test_an_axis_that_cannot_be_read_is_found(tree: Tree) -> None:
    tree.extra = {f"{JANUARY}/time/0": b"damaged"}
    found = tree.scan()
    assert [(f.code, f.partition) for f in found.findings] == [(Code.UNREADABLE_AXIS, JANUARY)]
    assert (found.partitions[0].axis, found.partitions[0].rows) == (None, 5)


class Unheard:
    """A codec that only its user has."""

    def get_config(self) -> dict[str, Any]:
        return {"id": "unheard-of"}

    def encode(self, chunk: npt.NDArray[Any]) -> bytes:
        return chunk.tobytes()


@pytest.mark.parametrize(("name", "also"), [("profile", set()), ("time", {Code.UNREADABLE_AXIS})])
def test_a_codec_that_nobody_knows_is_found(tree: Tree, name: str, also: set[Code]) -> None:
    tree.partitions[JANUARY][name]["compressor"] = Unheard()
    assert tree.codes() == dict.fromkeys({Code.CODECS, Code.UNKNOWN_CODEC, *also}, f"{JANUARY} {name}")


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4], [0, 1, 2, 4, 3], [4, 3, 2, 1, 0]])
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_an_axis_whose_ends_do_not_ascend_is_found(tree: Tree, order: list[int], chunk: int) -> None:
    times = tree.partitions[JANUARY]["time"]
    times |= {"values": times["values"][order], "chunks": [chunk]}
    read = [*order[:chunk], *order[(4 // chunk) * chunk :]]  # the first and the last chunk
    expected = {} if read == sorted(read) else {Code.UNSORTED_AXIS: f"{JANUARY} time"}
    assert tree.codes() == expected


def test_an_axis_with_a_missing_time_is_found(tree: Tree) -> None:
    tree.partitions[JANUARY]["time"]["values"][0] = np.datetime64("NaT", "ns")
    assert tree.codes() == {Code.UNSORTED_AXIS: f"{JANUARY} time"}


def test_rows_of_another_partition_are_found(tree: Tree) -> None:
    tree.partitions[JANUARY]["time"]["values"][-1] = np.datetime64("2000-02-01", "us")
    found = tree.scan()
    (finding,) = found.findings
    assert (finding.code, finding.partition) == (Code.MISFILED, JANUARY)
    assert FEBRUARY in finding.message


def test_an_axis_of_numbers_has_bounds(tree: Tree) -> None:
    tree.partitioning = {"id": "Sequence", "variables": ["cycle"]}
    item = array("time", np.array([0.5, 1.5, np.nan]), ["time"])
    tree.partitions = {"cycle=1": {**arrays(rows=3), "time": item}}
    found = tree.scan()
    assert {f.code for f in found.findings} == {Code.DTYPE, Code.CODECS, Code.UNSORTED_AXIS}
    assert found.partitions[0].axis is not None
    assert found.partitions[0].axis[0] == 0.5


@pytest.mark.parametrize(
    ("key", "code", "severity"),
    [
        ("README.txt", Code.FOREIGN, Severity.NOTE),
        ("docs/a.txt", Code.FOREIGN, Severity.NOTE),
        ("year=2000/notes.txt", Code.FOREIGN, Severity.NOTE),
        ("year=2000/month=03.tmp/.zmetadata", Code.FOREIGN, Severity.NOTE),
        (f"{'0123456789abcdef' * 4}/time/0", Code.LEFTOVER, Severity.NOTE),
        ("year=2000/month=3/.zmetadata", Code.MISSPELT, Severity.FAULT),
        ("year=2000/month=13/.zmetadata", Code.MISSPELT, Severity.FAULT),
        (".zcommits/00000000000000000000.json", Code.OURS_ALREADY, Severity.FAULT),
    ],
)
def test_what_is_no_partition_is_told(tree: Tree, key: str, code: Code, severity: Severity) -> None:
    tree.extra = {key: b""}
    found = tree.scan()
    assert [(f.code, f.code.severity) for f in found.findings] == [(code, severity)]
    assert len(found.partitions) == 2


def test_a_file_inside_a_partition_is_nobodys_business(tree: Tree) -> None:
    tree.extra = {f"{JANUARY}/.hidden/x": b"", f"{JANUARY}/note.txt": b""}
    assert tree.codes() == {}


def test_the_group_without_rows_is_held_against_the_collection_too(tree: Tree) -> None:
    tree.immutable = {"lon": array("lon", np.arange(3.0), ["pixel"])}
    tree.lost = [".immutable/lon/0"]
    assert tree.codes() == {Code.UNDEFINED_CHUNKS: ".immutable lon"}
    tree.store.delete(".immutable/.zmetadata")
    assert {f.code for f in scan(tree.store).faults} == {Code.NO_IMMUTABLE}


def test_a_variable_with_the_name_of_ours_is_found(tree: Tree) -> None:
    plain = tree._config()
    plain["dataset"]["variables"].append({**plain["dataset"]["variables"][1], "name": "granule"})
    tree._config = lambda: plain  # type: ignore[method-assign]
    for members in tree.partitions.values():
        members["granule"] = {**members["packed"], "name": "granule"}
    assert tree.codes() == {Code.RESERVED_NAME: "granule"}


def test_how_the_file_was_understood_is_among_the_findings(tree: Tree) -> None:
    plain = tree._config()
    plain["dataset"]["chunks"] = [["time", "auto"]]
    tree._config = lambda: plain  # type: ignore[method-assign]
    (finding,) = tree.scan().findings
    assert (finding.code, finding.code.severity) == (Code.TRANSLATED, Severity.NOTE)
    assert "'auto'" in finding.message
