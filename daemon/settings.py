"""The daemon's settings: TOML file < environment < command line, checked as a whole before anything
starts."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon import settings_sources
from daemon.errors import SettingsError
from daemon.locations import absolute_locations, is_inside
from daemon.redaction import redact_text
from daemon.settings_data import CollectionSettings, SourceSettings, WatchSourceSettings
from daemon.settings_schema import KeyPath, Node, key_path, spelt, without_unknown
from daemon.settings_sections import (
    AwsSettings,
    BatchSettings,
    DaemonSettings,
    DaskSettings,
    RetrySettings,
    StorageSettings,
)
from daemon.settings_sources import Layers

if TYPE_CHECKING:
    from zcollection_engine.stores.options import StorageOptions

ENVIRONMENT_PREFIX = "ZCOLLECTIOND_"


class Settings(BaseSettings):
    """All settings. Use `load_settings`: the class itself reads neither file nor environment."""

    model_config = SettingsConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    daemon: DaemonSettings = DaemonSettings()
    dask: DaskSettings = DaskSettings()
    aws: AwsSettings = AwsSettings()
    storage: StorageSettings = StorageSettings()
    retry: RetrySettings = RetrySettings()
    batch: BatchSettings = BatchSettings()

    sources: Annotated[tuple[SourceSettings, ...], Field(strict=False)] = ()
    """Where granules come from; ``run`` needs one at least."""

    collections: Annotated[tuple[CollectionSettings, ...], Field(strict=False)] = ()
    """Where granules go; ``run`` needs one at least. The first that matches takes a granule."""

    @property
    def storage_options(self) -> StorageOptions:
        """How the engine reaches S3."""
        from zcollection_engine.stores.options import StorageOptions

        return StorageOptions(self.aws.endpoint_url, self.aws.region, self.storage.s3.client)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,
        **named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        conflicts = [*_repeated_names(self), *_nested_roots(self), *_watched_output(self)]
        if conflicts:
            raise ValueError("\n".join(conflicts))
        return self


def load_settings(
    path: Path | None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Settings:
    """Read, merge and check all settings.

    Parameters
    ----------
    path
        TOML file; None for none. Relative paths and URLs, from wherever they come, start at its folder
        (without a file at the current one).
    overrides
        Of the form ``section.key=value``, also ``collections[0].url=...``. The value is a TOML literal, or
        else a text. They win over the environment.
    environ
        Environment variables; those named ``ZCOLLECTIOND_SECTION__KEY`` win over the file, lists and tables
        are JSON. None for the process's own.

    Raises
    ------
    SettingsError
        With a line for each problem found.
    """
    root = Node.of(Settings)
    layers = Layers(root, ENVIRONMENT_PREFIX)
    if path is not None:
        layers.add_file(path)
        if layers.problems:
            raise SettingsError(*layers.problems)
    layers.add_environment(os.environ if environ is None else environ)
    layers.add_overrides(overrides)
    values, unknown = without_unknown(root, layers.values)
    layers.problems += [settings_sources.unknown_key(layers.origin(p), p, known) for p, known in unknown]
    settings = _validated(root, layers, values, path.parent if path is not None else Path())
    if layers.problems or settings is None:
        raise SettingsError(*layers.problems)
    return settings


def environment_names() -> list[str]:
    """Names of all environment variables that `load_settings` knows."""
    return settings_sources.environment_names(Node.of(Settings), ENVIRONMENT_PREFIX)


def check_runnable(settings: Settings) -> None:
    """Raise `SettingsError` unless there is something to take granules from and something to put them
    into."""
    missing = [name for name in ("sources", "collections") if not getattr(settings, name)]
    if missing:
        raise SettingsError(*(f"{name}: none set; [[{name}]] must be there at least once" for name in missing))


def _validated(root: Node, layers: Layers, values: dict[str, Any], folder: Path) -> Settings | None:
    wrong: list[tuple[KeyPath, str]] = []
    values = absolute_locations(root, values, folder, wrong)
    layers.problems += [f"{layers.origin(path)}: {spelt(path)}: {message}" for path, message in wrong]
    try:
        return Settings(**values)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            path = key_path(root, details["loc"])
            start = ": ".join(filter(None, (layers.origin(path), spelt(path))))
            layers.problems += [f"{start}: {line}" for line in _messages(details)]
    return None


def _messages(details: ErrorDetails) -> list[str]:
    context = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return ["must be set"]
        case "value_error":
            return str(context["error"]).splitlines()
        case "union_tag_not_found":
            return [f"{context['discriminator']} must be set"]
        case "union_tag_invalid":
            return [f"{context['discriminator']} is {context['tag']!r}, not one of {context['expected_tags']}"]
    message = re.sub(r"^\w+ should", "should", details["msg"])
    message = re.sub(r"dictionary or instance of \w+|dictionary", "table", message).replace("tuple", "list")
    return [message if ", not " in message else f"{message}, not {redact_text(repr(details['input'])[:100])}"]


def _repeated_names(settings: Settings) -> Iterator[str]:
    for key, names in (
        ("sources", [source.label for source in settings.sources]),
        ("collections", [collection.name for collection in settings.collections]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                places = " and ".join(f"{key}[{i}]" for i, other in enumerate(names) if other == name)
                yield f'{places} have the same name {name!r}; set "name" to tell them apart'


def _roots(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "daemon.state_dir", f"file://{settings.daemon.state_dir.absolute()}"
    if settings.daemon.state_url:
        yield "daemon.state_url", settings.daemon.state_url
    for index, collection in enumerate(settings.collections):
        yield f"collections[{index}].url", collection.url


def _nested_roots(settings: Settings) -> Iterator[str]:
    roots = list(_roots(settings))
    for index, (key, url) in enumerate(roots):
        for other_key, other in roots[:index]:
            if {key, other_key} == {"daemon.state_dir", "daemon.state_url"}:
                continue
            if is_inside(url, other) or is_inside(other, url):
                yield f"{key} ({url}) and {other_key} ({other}) must not be the same or lie inside each other"


def _watched_output(settings: Settings) -> Iterator[str]:
    for index, source in enumerate(settings.sources):
        if not isinstance(source, WatchSourceSettings):
            continue
        for key, url in _roots(settings):
            if is_inside(source.url, url):
                yield f"sources[{index}].url ({source.url}) is inside {key} ({url}), where the daemon writes"
