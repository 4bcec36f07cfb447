"""The mark in a zstd frame: equal rows have other bytes each time, and every decoder gives the rows back."""

from __future__ import annotations

import contextlib
import os
import uuid

import numcodecs
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import DAY_16
from tests.zarr2_support import ZARR2, array_columns, created, private, public, rows, schema
from zcollection_engine.errors import FormatError
from zcollection_engine.layout.chunkstore import is_tombstone, tombstone
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.zstdmark import MARK_SIZE, mark
from zcollection_engine.stores.base import ObjectStore

IDENTITY = bytes(range(0, 256, 16))
FRAMES: dict[str, bytes] = {
    "one byte": b"x",
    "a run": b"\x00" * 5000,
    "noise": os.urandom(3000),
    "several blocks of noise": os.urandom(400_000),
    "several blocks of text": b"".join(f"{i} times a row, ".encode() for i in range(60_000)),
    "a mark's own bytes": IDENTITY,
}


def compressed(content: bytes, level: int = 3, *, checksum: bool = True) -> bytes:
    return bytes(numcodecs.Zstd(level, checksum).encode(content))


def decompressed(frame: bytes) -> bytes:
    return bytes(numcodecs.Zstd().decode(frame))


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("content", FRAMES.values(), ids=FRAMES)
def test_a_marked_frame_decodes_to_what_was_encoded(content: bytes, checksum: bool) -> None:
    frame = compressed(content, checksum=checksum)
    marked = mark(frame, IDENTITY)
    assert decompressed(marked) == content
    assert len(marked) == len(frame) + 64
    # The checksum of the content stays the last thing in the frame.
    assert (marked[-4:] == frame[-4:]) is checksum


def test_a_frame_of_nothing_is_marked() -> None:
    """numcodecs decodes no frame of nothing, marked or not; no chunk is one."""
    frame = compressed(b"")
    marked = mark(frame, IDENTITY)
    assert [marked[place] for place in _places(marked)] == list(IDENTITY)
    for each in (frame, marked):
        with pytest.raises(RuntimeError):
            decompressed(each)


@pytest.mark.parametrize("level", [-50, -5, -1, 1, 3, 9, 19, 22])
def test_frames_of_every_level_are_marked(level: int) -> None:
    content = FRAMES["several blocks of text"][:300_000]
    assert decompressed(mark(compressed(content, level), IDENTITY)) == content


@settings(max_examples=200)
@given(
    content=st.one_of(
        st.binary(min_size=1, max_size=2000), st.binary(min_size=1, max_size=20).map(lambda part: part * 20_000)
    ),
    identity=st.binary(min_size=MARK_SIZE, max_size=MARK_SIZE),
    level=st.integers(-7, 12),
    checksum=st.booleans(),
)
def test_any_content_under_any_mark_comes_back(content: bytes, identity: bytes, level: int, checksum: bool) -> None:
    marked = mark(compressed(content, level, checksum=checksum), identity)
    assert decompressed(marked) == content
    assert identity == bytes(marked[place] for place in _places(marked))


def _places(marked: bytes) -> range:
    """Where the bytes of a mark stand: behind each header of three bytes, before the checksum."""
    end = len(marked) - (4 if marked[4] & 4 else 0)
    return range(end - 61, end, 4)


def test_another_mark_gives_other_bytes_of_the_same_size() -> None:
    frame = compressed(b"rows")
    marks = {mark(frame, uuid.uuid4().bytes) for _ in range(50)}
    assert len(marks) == 50
    assert len({len(marked) for marked in marks}) == 1


def test_a_marked_frame_can_be_marked_again() -> None:
    assert decompressed(mark(mark(compressed(b"rows"), IDENTITY), bytes(16))) == b"rows"


def test_a_flipped_bit_of_the_content_is_noticed_as_without_a_mark() -> None:
    marked = bytearray(mark(compressed(FRAMES["noise"]), IDENTITY))
    marked[1000] ^= 1
    with pytest.raises(RuntimeError):
        decompressed(bytes(marked))


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_mark_has_sixteen_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        mark(compressed(b"rows"), bytes(size))


GOOD = compressed(FRAMES["a run"])
DAMAGED = {
    "nothing": b"",
    "no frame": b"not a frame at all, but long enough to be taken for one",
    "another magic number": b"\x00" + GOOD[1:],
    "a header alone": GOOD[:6],
    "no end": GOOD[:-1],
    "no checksum": GOOD[:-4],
    "something behind it": GOOD + b"\x00",
    "two frames": GOOD + GOOD,
    "a skippable frame": tombstone(uuid.uuid4()),
    "a frame that is marked behind it": GOOD + tombstone(uuid.uuid4()),
}


@pytest.mark.parametrize("frame", DAMAGED.values(), ids=DAMAGED)
def test_what_is_not_one_whole_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(FormatError, match="zstd frame"):
        mark(frame, IDENTITY)


@settings(max_examples=300)
@given(data=st.data(), content=st.binary(max_size=300))
def test_damage_is_refused_or_marked_and_nothing_else(data: st.DataObject, content: bytes) -> None:
    frame = bytearray(compressed(content))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    with contextlib.suppress(FormatError):
        assert len(mark(cut, IDENTITY)) == len(cut) + 64


# In a collection.


def test_equal_rows_written_again_are_other_bytes_in_every_chunk(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rows(range(9)), granule="first")
    collection.insert(rows([3]), granule="second")
    before = {key: store.get(key).data for key in private(store, DAY_16, 1)}
    values = array_columns(store, DAY_16, ("time", "height", "label", "profile"))
    for offset in (1, 2, 0):  # back into the first of the hidden spaces
        collection.insert(rows([3], offset=offset), granule="second")
    after = {key: store.get(key).data for key in private(store, DAY_16, 1)}
    assert collection.state.partitions[DAY_16].generation == 4
    assert array_columns(store, DAY_16, tuple(values)) == values
    assert sorted(before) == sorted(after)
    assert [key for key in before if before[key] == after[key]] == []


def test_equal_rows_of_two_attempts_have_other_bytes_and_equal_values(store: ObjectStore) -> None:
    created(store, owner="one").insert(rows(range(6)), granule="g")
    one = {key: store.get(key).data for key in public(store, DAY_16)}
    for key in [info.key for info in store.list()]:
        store.delete(key)
    created(store, owner="two").insert(rows(range(6)), granule="g")
    two = {key: store.get(key).data for key in public(store, DAY_16)}
    assert sorted(one) == sorted(two)
    assert [key for key in one if one[key] == two[key]] == []


@pytest.mark.parametrize("name", ["time", "height", "label", "profile", "granule"])
def test_the_mark_is_in_the_frame_so_that_decoders_which_take_just_one_frame_read_it(
    store: ObjectStore, name: str
) -> None:
    created(store).insert(rows(range(6)), granule="g")
    for key in public(store, DAY_16):
        if f"/{name}/" in key:
            chunk = store.get(key).data
            assert mark(chunk, IDENTITY)  # it is one frame, or this would refuse it
            assert not is_tombstone(chunk)


def test_a_tombstone_is_no_values_for_readers(store: ObjectStore) -> None:
    created(store).insert(rows(range(3)), granule="g")
    key = f"{DAY_16}/height/0"
    store.replace(key, tombstone(uuid.uuid4()), store.head(key).etag)
    with pytest.raises((RuntimeError, ValueError)):
        array_columns(store, DAY_16, ["height"])


def test_what_is_sealed_is_what_zarr_decodes() -> None:
    frame = compressed(b"\x01\x00\x00\x00" * 4)
    sealed = {ZARR2.seal(frame, uuid.uuid4()) for _ in range(3)}
    assert len(sealed) == 3
    assert {decompressed(each) for each in sealed} == {b"\x01\x00\x00\x00" * 4}
    documents = ZARR2.render(schema(), Version(1, 0, 4))
    chunks = {**documents, "height/0": sealed.pop()}
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    store = zarr.storage.MemoryStore({key: make(data) for key, data in chunks.items()})
    assert zarr.open_array(store, path="height", mode="r", zarr_format=2)[...].tolist() == [1, 1, 1, 1]
