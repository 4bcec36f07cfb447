"""Codecs: what may be asked for, what comes of it in each format, and that plain readers decode it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import small_schema
from zcollection_engine.codecs import (
    PROFILES,
    check_codecs,
    codecs_to_json,
    parse_codecs,
    v2_codecs,
    v3_codecs,
    with_codecs,
)
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, attempt_frame, open_variable
from zcollection_engine.layout.documents import Version, render
from zcollection_engine.schema import ENVELOPE, PROVENANCE, TEXT, Codec, Codecs, Variable
from zcollection_engine.stores.memory import MemoryStore

ROWS = 11  # more than one chunk of 4, and a partly filled last one
ATTEMPT = UUID("01234567-89ab-cdef-0123-456789abcdef")
FRAME = attempt_frame(ATTEMPT)
DTYPES = ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8", TEXT]
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}
CLOSING = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}


def variable(dtype: str = "<i4", *, codecs: Any = None, path: str = "ku/x") -> Variable:
    plain = Variable(path, dtype, ("time", "band"), (4, 3), "" if dtype == TEXT else None)
    if codecs is None:
        return plain
    return Variable(path, dtype, plain.dimensions, plain.chunks, plain.fill_value, codecs=parse_codecs(codecs, plain))


def blosc(typesize: int, clevel: int, **changes: Any) -> dict[str, Any]:
    configuration = {"typesize": typesize, "cname": "zstd", "clevel": clevel, "shuffle": "shuffle", "blocksize": 0}
    return {"name": "blosc", "configuration": configuration | changes}


def values_for(dtype: str) -> npt.NDArray[Any]:
    if dtype == TEXT:
        return np.array([["é" * i, "", "日本"] for i in range(ROWS)], object)
    return np.random.default_rng(1).integers(0, 100, (ROWS, 3)).astype(dtype)


# What may be asked for.


@pytest.mark.parametrize(
    ("dtype", "to_bytes"),
    [
        ("|b1", {"name": "bytes"}),
        ("|i1", {"name": "bytes"}),
        ("<i2", {"name": "bytes", "configuration": {"endian": "little"}}),
        ("<f8", {"name": "bytes", "configuration": {"endian": "little"}}),
        (TEXT, {"name": "vlen-utf8"}),
    ],
)
def test_a_variable_without_codecs_has_those_of_the_time_before_there_was_a_choice(
    dtype: str, to_bytes: dict[str, Any]
) -> None:
    assert v3_codecs(variable(dtype)) == [to_bytes, ZSTD]
    assert v3_codecs(variable(dtype, codecs="zstd")) == [to_bytes, ZSTD]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *((dtype, [ZSTD]) for dtype in ("|b1", "|i1", "|u1", TEXT)),
        *((dtype, [blosc(2, 3), CLOSING]) for dtype in ("<i2", "<u2")),
        *((dtype, [blosc(4, 3), CLOSING]) for dtype in ("<i4", "<u4")),
        *((dtype, [blosc(8, 5), CLOSING]) for dtype in ("<i8", "<u8")),
        ("<f4", [blosc(4, 2), CLOSING]),
        ("<f8", [blosc(8, 2), CLOSING]),
    ],
)
def test_the_default_follows_from_the_kind_of_the_values(dtype: str, expected: list[dict[str, Any]]) -> None:
    assert v3_codecs(variable(dtype, codecs="default"))[1:] == expected


def test_the_origin_of_rows_is_not_shuffled_by_default() -> None:
    assert v3_codecs(variable("<u8", codecs="default", path=PROVENANCE))[1:] == [ZSTD]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], [CLOSING]),
        (["bytes", "zstd"], [ZSTD]),
        ([{"name": "bytes", "configuration": {"endian": "little"}}, ZSTD], [ZSTD]),
        ([{"name": "zstd", "configuration": {"level": -7, "checksum": False}}], None),
        (["gzip"], [{"name": "gzip", "configuration": {"level": 5}}, CLOSING]),
        (["crc32c"], [{"name": "crc32c"}, CLOSING]),
        (["blosc"], [blosc(4, 3), CLOSING]),
        (["zstd", "crc32c"], [ZSTD, {"name": "crc32c"}, CLOSING]),
        (
            [{"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}}],
            [blosc(4, 5, cname="lz4", shuffle="bitshuffle"), CLOSING],
        ),
    ],
)
def test_a_chain_is_completed_and_ends_in_zstd(asked: list[Any], expected: list[dict[str, Any]] | None) -> None:
    assert v3_codecs(variable(codecs=asked))[1:] == (asked if expected is None else expected)


def test_a_transpose_goes_before_the_bytes_and_reverses_the_dimensions_unless_told_otherwise() -> None:
    transpose = {"name": "transpose", "configuration": {"order": [1, 0]}}
    to_bytes = {"name": "bytes", "configuration": {"endian": "little"}}
    assert v3_codecs(variable(codecs=["transpose", "zstd"])) == [transpose, to_bytes, ZSTD]
    assert v3_codecs(variable(codecs=[transpose, to_bytes, ZSTD])) == [transpose, to_bytes, ZSTD]


@pytest.mark.parametrize(
    ("dtype", "asked", "named"),
    [
        ("<i4", "quick", "'quick' is no profile of codecs; there are default, zstd"),
        ("<i4", ["lzma"], "codec 'lzma' is none of"),
        ("<i4", ["numcodecs.delta"], "codec 'numcodecs.delta' is none of"),
        ("<i4", ["sharding_indexed"], "codec 'sharding_indexed' is none of"),
        ("<i4", [{"name": "zstd", "configuration": {"level": 23}}], "codec 'zstd': level is 23"),
        ("<i4", [{"name": "zstd", "configuration": {"level": True}}], "codec 'zstd': level is True"),
        ("<i4", [{"name": "zstd", "configuration": {"checksum": 1}}], "codec 'zstd': checksum is 1"),
        ("<i4", [{"name": "gzip", "configuration": {"level": 10}}], "codec 'gzip': level is 10"),
        ("<i4", [{"name": "gzip", "configuration": {"level": None}}], "codec 'gzip': level is None"),
        ("<i4", [{"name": "blosc", "configuration": {"cname": "snappy"}}], "codec 'blosc': cname is 'snappy'"),
        ("<i4", [{"name": "blosc", "configuration": {"shuffle": 1}}], "codec 'blosc': shuffle is 1"),
        ("<i4", [{"name": "blosc", "configuration": {"level": 1}}], "codec 'blosc' has no setting 'level'"),
        ("<i4", [{"name": "blosc", "clevel": 1}], "codec 'blosc' has members other than"),
        ("<i4", [{"name": "transpose", "configuration": {"order": [0, 2]}}], "codec 'transpose': order is [0, 2]"),
        ("<i4", [{"name": "transpose", "configuration": {"order": "C"}}], "codec 'transpose': order is 'C'"),
        ("<i4", [{"name": "bytes", "configuration": {"endian": "big"}}], "codec 'bytes' with {'endian': 'big'}"),
        ("<i4", ["vlen-utf8"], "codec 'vlen-utf8'"),
        (TEXT, ["bytes"], "codec 'bytes'"),
        ("<f8", ["delta"], "codec 'delta' is not for"),
        (TEXT, ["shuffle"], "codec 'shuffle' is not for"),
        (TEXT, ["transpose"], "codec 'transpose' is not for string"),
        ("|b1", ["delta"], "codec 'delta' is not for"),
        ("<i4", ["zstd", "transpose"], "['zstd', 'transpose'] do not go in this order"),
        ("<i4", ["zstd", "bytes"], "['zstd', 'bytes'] do not go in this order"),
        ("<i4", ["bytes", "bytes"], "['bytes', 'bytes'] do not go in this order"),
        ("<i4", [3], "codec 3 is neither"),
        ("<i4", [{"configuration": {}}], "is neither a name nor a table with a 'name'"),
        ("<i4", 3, "neither the name of a profile nor a list"),
        ("<i4", {"bytes_to_bytes": 3}, "bytes_to_bytes"),
        ("<i4", {"colour": []}, "colour"),
        ("<i4", {"sharded": True}, "sharded"),
    ],
)
def test_what_cannot_be_is_refused_and_variable_and_codec_are_named(dtype: str, asked: Any, named: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        variable(dtype, codecs=asked)
    assert "variable 'ku/x'" in str(caught.value)
    assert named in str(caught.value)


def test_a_chain_that_was_made_by_hand_is_closed_too() -> None:
    gzip = Codec("gzip", (("level", 1),))
    assert Codecs().bytes_to_bytes == (ENVELOPE,)
    assert Codecs(bytes_to_bytes=(gzip,)).bytes_to_bytes == (gzip, ENVELOPE)
    assert Codecs(bytes_to_bytes=(gzip, ENVELOPE)).bytes_to_bytes == (gzip, ENVELOPE)


CHAINS = st.lists(
    st.one_of(
        st.just("crc32c"),
        st.builds(lambda n: {"name": "gzip", "configuration": {"level": n}}, st.integers(0, 9)),
        st.builds(
            lambda n, c: {"name": "zstd", "configuration": {"level": n, "checksum": c}},
            st.integers(-5, 22),
            st.booleans(),
        ),
        st.builds(
            lambda c, n, s: {"name": "blosc", "configuration": {"cname": c, "clevel": n, "shuffle": s}},
            st.sampled_from(["blosclz", "lz4", "lz4hc", "zlib", "zstd"]),
            st.integers(0, 9),
            st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
        ),
    ),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), CHAINS | st.sampled_from(PROFILES), st.booleans())
def test_codecs_survive_strict_json_and_differ_from_others(dtype: str, asked: Any, transposed: bool) -> None:
    wanted = ["transpose", *asked] if transposed and dtype != TEXT and not isinstance(asked, str) else asked
    coded = variable(dtype, codecs=wanted)
    assert coded.codecs is not None
    document = json.loads(json.dumps(codecs_to_json(coded.codecs, coded), allow_nan=False))
    back = variable(dtype, codecs=document)
    assert back == coded
    assert hash(back.codecs) == hash(coded.codecs)
    assert coded != variable(dtype)
    assert coded != variable(dtype, codecs=["gzip", "gzip", "gzip", "gzip"])


def test_the_document_has_the_shape_of_zcollections_own() -> None:
    coded = variable("<i2", codecs=["transpose", "blosc"])
    assert coded.codecs is not None
    assert codecs_to_json(coded.codecs, coded) == {
        "array_to_array": [{"name": "transpose", "configuration": {"order": [1, 0]}}],
        "array_to_bytes": {"name": "bytes", "configuration": {"endian": "little"}},
        "bytes_to_bytes": [blosc(2, 3), CLOSING],
    }


def test_a_document_of_zcollections_is_read() -> None:
    document = {
        "array_to_array": [],
        "array_to_bytes": {"name": "bytes", "configuration": {"endian": "little"}},
        "bytes_to_bytes": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
        "sharded": False,
        "shard_target_bytes": 134217728,
    }
    assert v3_codecs(variable("<f4", codecs=document))[1:] == document["bytes_to_bytes"]


# A choice for all variables of a collection.


def chosen(choice: Any, **options: Any) -> dict[str, list[str]]:
    extra = [variable(), variable("|i1", path="ku/flag"), variable("<f8", path="c/deep/y")]
    schema = with_codecs(replace(small_schema(extra=extra), **options), choice)
    return {v.path: [c.name for c in v.codecs.bytes_to_bytes] if v.codecs else [] for v in schema.variables}


def test_every_variable_of_a_collection_gets_codecs() -> None:
    shuffled, plain = ["blosc", "zstd"], ["zstd"]
    assert chosen("default") == {
        "time": shuffled,
        "height": shuffled,
        "granule": plain,
        "ku/x": shuffled,
        "ku/flag": plain,
        "c/deep/y": shuffled,
    }
    assert set(map(tuple, chosen(["gzip"]).values())) == {("gzip", "zstd")}


def test_the_first_pattern_that_matches_counts_and_stars_stay_in_their_group() -> None:
    found = chosen({"ku/x": ["gzip"], "ku/*": "blosc", "*": "zstd"})
    assert (found["ku/x"], found["ku/flag"], found["time"]) == (["gzip", "zstd"], ["blosc", "zstd"], ["zstd"])
    assert found["c/deep/y"] == ["blosc", "zstd"]
    assert chosen({"c/*/y": "zstd"})["c/deep/y"] == ["zstd"]
    assert set(map(tuple, chosen({"**": "zstd"}).values())) == {("zstd",)}


def test_a_pattern_without_a_variable_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'ku/y' matches none of the variables .*ku/x"):
        chosen({"ku/y": "zstd"})


def test_codecs_that_a_variable_has_are_kept() -> None:
    schema = with_codecs(small_schema(extra=[variable(codecs=["gzip"])]), "zstd")
    assert with_codecs(schema, "blosc") == schema
    assert schema["ku/x"].codecs == variable(codecs=["gzip"]).codecs


def test_zarr_v2_has_no_filters_unless_they_are_asked_for() -> None:
    assert set(map(tuple, chosen("default", zarr_format=2).values())) == {("zstd",)}
    assert set(map(tuple, chosen({"ku/x": "zstd"}, zarr_format=2).values())) == {("zstd",)}
    assert chosen("blosc", zarr_format=2)["time"] == ["blosc", "zstd"]


@pytest.mark.parametrize(("codec", "lacking"), [("transpose", 2), ("crc32c", 2), ("delta", 3), ("shuffle", 3)])
def test_a_codec_that_a_format_does_not_have_is_refused_for_it(codec: str, lacking: int) -> None:
    schema = with_codecs(replace(small_schema(extra=[variable(codecs=[codec])]), zarr_format=5 - lacking))
    other = replace(schema, zarr_format=lacking)
    message = rf"variable 'ku/x': codec '{codec}' does not exist in Zarr v{lacking}"
    with pytest.raises(InvalidInputError, match=message):
        check_codecs(other)
    with pytest.raises(InvalidInputError, match=message):
        v3_codecs(schema["ku/x"]) if lacking == 3 else v2_codecs(schema["ku/x"])
    with pytest.raises(InvalidInputError, match=message):
        with_codecs(other)


# Chunks, written as the engine writes them.


def write_v3(coded: Variable) -> dict[str, bytes]:
    """Write through the engine's store in two appends; return all objects."""
    schema, values = small_schema(extra=[coded]), values_for(coded.dtype)
    objects = MemoryStore(f"memory://{uuid4()}")
    for before, rows in ((0, 6), (6, ROWS)):
        documents = render(schema, Version(rows, 0, rows))
        store = ChunkStore(objects, "p", documents, ChunkWriter(objects, ATTEMPT, lambda: None))
        store.prefetch([f"{coded.path}/c/1/0"] if before else [])
        open_variable(store, coded.path)[before:rows] = values[before:rows]
    chunks = {info.key.removeprefix("p/"): objects.get(info.key).data for info in objects.list()}
    assert len(chunks) == 3
    assert all(chunk.endswith(FRAME) for chunk in chunks.values())
    return {**documents, **chunks}


def plainly(found: dict[str, bytes]) -> zarr.Group:
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    return zarr.open_group(zarr.storage.MemoryStore({key: make(data) for key, data in found.items()}), mode="r")


ALL_V3 = [
    *PROFILES,
    [],
    ["gzip"],
    ["crc32c"],
    ["gzip", "crc32c"],
    [{"name": "blosc", "configuration": {"cname": "lz4", "shuffle": "bitshuffle"}}],
]


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [
        *((dtype, asked) for dtype in ["|b1", "|u1", "<i2", "<u8", "<f8", TEXT] for asked in ALL_V3),
        *((dtype, ["transpose", last]) for dtype in ["|u1", "<i4", "<f4"] for last in ("blosc", "zstd")),
    ],
    ids=str,
)
def test_plain_zarr_reads_chunks_of_every_chain_with_the_frame_behind(dtype: str, asked: Any) -> None:
    coded = variable(dtype, codecs=asked)
    array = plainly(write_v3(coded))[coded.path]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[:], values_for(dtype))


@pytest.mark.parametrize("asked", ["default", ["gzip"], []], ids=str)
def test_a_flipped_bit_is_an_error_and_no_other_value(asked: Any) -> None:
    coded = variable(codecs=asked)
    found = write_v3(coded)
    key = f"{coded.path}/c/0/0"
    for place in range(5, len(found[key]) - len(FRAME), 7):
        damaged = bytearray(found[key])
        damaged[place] ^= 1
        array = plainly({**found, key: bytes(damaged)})[coded.path]
        with pytest.raises((RuntimeError, ValueError)):
            array[:4]


# Zarr v2.


def test_the_configurations_for_zarr_v2_are_those_of_numcodecs() -> None:
    zstd = {"id": "zstd", "level": 3, "checksum": True}
    closing = {"id": "zstd", "level": 1, "checksum": True}
    assert v2_codecs(variable()) == (None, zstd)
    assert v2_codecs(variable(), checksum=False) == (None, {"id": "zstd", "level": 3})
    assert v2_codecs(variable(TEXT)) == ([{"id": "vlen-utf8"}], zstd)
    filters, compressor = v2_codecs(variable("<i8", codecs=["delta", "shuffle", "gzip", "blosc"]))
    assert filters == [
        {"id": "delta", "dtype": "<i8"},
        {"id": "shuffle", "elementsize": 8},
        {"id": "gzip", "level": 5},
        {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0},
    ]
    assert compressor == closing


ALL_V2 = [*PROFILES, [], ["gzip"], [{"name": "blosc", "configuration": {"shuffle": "bitshuffle"}}]]
FILTERS = [["delta"], ["shuffle"], ["delta", "shuffle", "zstd"], ["delta", "blosc"]]


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [
        *((dtype, asked) for dtype in ["|b1", "|u1", "<i2", "<f8", TEXT] for asked in ALL_V2),
        *((dtype, asked) for dtype in ["|i1", "<i2", "<u8"] for asked in FILTERS),
    ],
    ids=str,
)
def test_zarr_v2_chunks_of_every_chain_are_read_with_the_frame_behind(dtype: str, asked: Any) -> None:
    coded = variable(dtype, codecs=asked)
    values = values_for(dtype)
    filters, compressor = v2_codecs(coded)
    chain = [numcodecs.get_codec(dict(config)) for config in (*(filters or ()), compressor)]
    data: Any = values
    for codec in chain:
        data = codec.encode(data)
    published, last = v2_codecs(coded, checksum=False)
    document = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": values.shape,
        "dtype": "|O" if dtype == TEXT else dtype,
        "filters": published,
        "compressor": last,
        "fill_value": None,
        "order": "C",
    }
    found = {".zarray": json.dumps(document).encode(), "0.0": bytes(data) + FRAME}
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    store = zarr.storage.MemoryStore({key: make(body) for key, body in found.items()})
    array = zarr.open_array(store, mode="r", zarr_format=2)
    np.testing.assert_array_equal(array[:], values)
    with pytest.raises(RuntimeError):
        numcodecs.get_codec(dict(last)).decode(bytes(data)[:-1] + bytes([bytes(data)[-1] ^ 1]))
