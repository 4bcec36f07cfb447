"""What a collection must hold, from the granules' raw values and plain numpy alone; none of the engine's code.

Source of the rule (``time_series``): in each partition a granule owns the closed interval from its first to its last
time; a row stays unless it lies in the interval of a granule of higher rank; rows are ordered by time, then by rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
import zarr

from tests.landing import Landed
from tests.servers import ACCESS_KEY, REGION, SECRET_KEY

Values = npt.NDArray[Any]

#: Row variable in which a collection keeps the origin of its rows.
ORIGIN = "granule"

_KEPT_ATTRIBUTES = ("units", "scale_factor", "add_offset", "long_name")


@dataclass(frozen=True)
class Source:
    """Which of a file's variables are taken.

    Attributes
    ----------
    groups
        Groups whose variables are taken, the axis's first; names are relative to that one.
    attributes
        Dtypes of the global attributes that become row variables.
    epoch
        What the times are seconds since.
    """

    groups: tuple[str, ...] = ("/",)
    attributes: Mapping[str, str] = field(default_factory=dict)
    epoch: str = "2000-01-01"


SENTINEL6 = Source(("/data_01", "/data_01/ku"), {"cycle_number": "uint16", "pass_number": "uint16"})
SENTINEL3_WAVE = Source()
GSFC = Source(epoch="1990-01-01")


@dataclass(frozen=True)
class Raw:
    """The raw values of one file, by name in the collection; those without time apart."""

    rows: dict[str, Values]
    fixed: dict[str, Values]
    attributes: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Expected:
    """The rows of one partition; ``origin`` is the key of each row's granule."""

    rows: dict[str, Values]
    origin: Values


def read_raw(data: bytes, source: Source) -> Raw:
    """Read a file; times become int64 nanoseconds since 1970, characters texts."""
    raw = Raw({}, {}, {})
    with netCDF4.Dataset("source", memory=data) as file:
        file.set_auto_maskandscale(False)
        file.set_auto_chartostring(False)
        base = file[source.groups[0]] if source.groups[0] != "/" else file
        dimension = base["time"].dimensions[0]
        for path in source.groups:
            group = file[path] if path != "/" else file
            prefix = f"{path.removeprefix(source.groups[0]).strip('/')}/".lstrip("/")
            for name, variable in group.variables.items():
                values = variable[...]
                if values.dtype.kind == "S":
                    values = np.array([b"".join(line).rstrip(b"\0").decode() for line in values], object)
                (raw.rows if dimension in variable.dimensions else raw.fixed)[prefix + name] = values
                raw.attributes[prefix + name] = {key: variable.getncattr(key) for key in variable.ncattrs()}
        origin = np.datetime64(source.epoch, "ns").astype(np.int64)
        raw.rows["time"] = (raw.rows["time"] * 1e9).astype(np.int64) + origin
        count = len(raw.rows["time"])
        for name, dtype in source.attributes.items():
            raw.rows[name] = np.full(count, file.getncattr(name), dtype)
            raw.attributes[name] = {}
    return raw


def labels(times: Values, resolution: str) -> list[str]:
    """Partition path of each time."""
    stamps = np.datetime_as_string(times.astype("datetime64[ns]"), unit={"day": "D", "month": "M"}[resolution])
    names = ("year", "month", "day")
    return ["/".join(f"{n}={p}" for n, p in zip(names, stamp.split("-"), strict=False)) for stamp in stamps.tolist()]


def expected(granules: Iterable[Landed], source: Source, resolution: str) -> dict[str, Expected]:
    """The rows of every partition for a set of granules, by its path."""
    shares: dict[str, list[tuple[Landed, dict[str, Values]]]] = {}
    for granule in sorted(granules, key=lambda g: g.rank):
        raw = read_raw(granule.data, source)
        paths = np.array(labels(raw.rows["time"], resolution))
        for path in np.unique(paths).tolist():
            rows = {name: values[paths == path] for name, values in raw.rows.items()}
            shares.setdefault(path, []).append((granule, rows))
    return {path: _merged(members) for path, members in shares.items()}


def _merged(members: Sequence[tuple[Landed, dict[str, Values]]]) -> Expected:
    """Merge the shares of one partition; ``members`` ascend in rank."""
    kept: list[dict[str, Values]] = []
    origins: list[Values] = []
    for number, (granule, rows) in enumerate(members):
        time = rows["time"]
        stay = np.ones(time.shape, bool)
        for _, other in members[number + 1 :]:
            stay &= (time < other["time"].min()) | (time > other["time"].max())
        kept.append({name: values[stay] for name, values in rows.items()})
        origins.append(np.full(int(stay.sum()), granule.key, object))
    joined = {name: np.concatenate([rows[name] for rows in kept]) for name in kept[0]}
    order = np.argsort(joined["time"], kind="stable")
    return Expected({name: values[order] for name, values in joined.items()}, np.concatenate(origins)[order])


def open_group(url: str, endpoint_url: str | None = None) -> zarr.Group:
    """Open a group with zarr alone, by its consolidated metadata where it has them."""
    return zarr.open_group(_location(url, endpoint_url), mode="r")


def _location(url: str, endpoint_url: str | None) -> Any:
    """What zarr opens."""
    if not url.startswith("s3://"):
        return url.removeprefix("file://")
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    store = S3Store(
        bucket,
        prefix=prefix,
        endpoint=endpoint_url,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region=REGION,
        client_options={"allow_http": True},
    )
    return ObjectStore(store, read_only=True)


def check_collection(
    url: str,
    granules: Sequence[Landed],
    source: Source,
    resolution: str,
    *,
    endpoint_url: str | None = None,
) -> dict[str, int]:
    """Compare a collection with what it must hold, value by value; returns the rows of each partition."""
    wanted = expected(granules, source, resolution)
    attributes = read_raw(granules[0].data, source).attributes
    summary = open_group(url, endpoint_url).attrs
    assert summary["zcollection_granules"] == len({granule.key for granule in granules})
    assert summary["zcollection_partitions"] == len(wanted)
    assert summary["zcollection_rows"] == sum(len(partition.origin) for partition in wanted.values())
    for path, partition in wanted.items():
        _check_partition(open_group(f"{url}/{path}", endpoint_url), partition, attributes)
    return {path: len(partition.origin) for path, partition in wanted.items()}


def _check_partition(group: zarr.Group, wanted: Expected, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    arrays = _arrays(group)
    assert set(arrays) == {*wanted.rows, ORIGIN}, group
    for name, values in wanted.rows.items():
        array = arrays[name]
        assert array.dtype == values.dtype, (group, name)
        np.testing.assert_array_equal(array[...], values, err_msg=f"{group}: {name}")
        if name != "time":
            kept = {key: array.attrs.get(key) for key in _KEPT_ATTRIBUTES if key in attributes[name]}
            assert kept == {key: attributes[name][key] for key in kept}, (group, name)
    assert arrays["time"].attrs["units"] == "nanoseconds since 1970-01-01"
    _check_origins(np.asarray(arrays[ORIGIN][...]), wanted.origin)


def _arrays(group: zarr.Group) -> dict[str, Any]:
    return {path: node for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}


def _check_origins(ids: Values, keys: Values) -> None:
    """Rows have one id for each granule and another for every other."""
    pairs = set(zip(ids.tolist(), keys.tolist(), strict=True))
    assert len(pairs) == len({identity for identity, _ in pairs}) == len({key for _, key in pairs})


def check_documents(url: str, paths: Iterable[str], endpoint_url: str | None = None) -> None:
    """Readers that ignore consolidated metadata see the same rows: publication is complete."""
    for path in paths:
        group = open_group(f"{url}/{path}", endpoint_url)
        for name, array in _arrays(group).items():
            alone = zarr.open_array(_location(f"{url}/{path}/{name}", endpoint_url), mode="r")
            # In Zarr v2 the commit stands in an array's own attributes, and not in the consolidated ones.
            own = {key: value for key, value in alone.attrs.items() if key != "zcollection_commit"}
            assert (alone.shape, own) == (array.shape, dict(array.attrs)), (path, name)
            np.testing.assert_array_equal(alone[...], array[...], err_msg=f"{path}/{name}")
