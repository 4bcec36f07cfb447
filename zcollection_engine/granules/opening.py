"""From an object's URL to the granule: which reader, and of what."""

from __future__ import annotations

from dataclasses import dataclass

from zcollection_engine.errors import StorageError
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.granules.zarrgranule import read_zarr_archive, read_zarr_folder
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.resolve import fetch, kept_store, split_url


@dataclass(frozen=True, slots=True)
class OpenedGranule:
    """A granule, and the object that stands for it.

    Attributes
    ----------
    granule
        Named after the object's URL.
    info
        Of the very version that was read: the file, the archive, or the marker of a directory.
    """

    granule: Granule
    info: ObjectInfo


def open_granule(url: str, spec: GranuleSpec, options: StorageOptions | None = None) -> OpenedGranule:
    """Fetch and read one granule.

    Parameters
    ----------
    url
        Of the object that announces the granule: a NetCDF file; or a zip archive of a Zarr hierarchy, or the marker
        of a Zarr directory, whose folder is the hierarchy's root.
    spec
        Format and marker, and what to take.
    options
        How to reach the store.

    Raises
    ------
    NotFoundError
        There is no such object.
    InvalidInputError
        The URL names no object, or the specification is wrong.
    InvalidGranuleError, EmptyGranuleError
        As `read_netcdf`, `read_zarr_archive` and `read_zarr_folder` say.
    StorageError
        The environment failed, or a Zarr directory was changed while it was read.
    """
    if spec.format == "netcdf":
        stored = fetch(url, options)
        return OpenedGranule(read_netcdf(stored.data, spec, name=url), stored.info)
    root, key = split_url(url)
    store = kept_store(root, options or StorageOptions())
    if spec.is_marker(key):
        return _open_folder(store, key, spec, url)
    stored = store.get(key)
    return OpenedGranule(read_zarr_archive(stored.data, spec, name=url), stored.info)


def _open_folder(store: ObjectStore, key: str, spec: GranuleSpec, url: str) -> OpenedGranule:
    """Read a directory between two looks at its marker, which tell one and the same version."""
    info = store.head(key)
    folder = key[: key.rfind("/") + 1]
    granule = read_zarr_folder(store, folder, spec, name=url)
    if store.head(key).etag != info.etag:
        raise StorageError(f"{url} was written again while its folder was read; the granule will be read again")
    return OpenedGranule(granule, info)
