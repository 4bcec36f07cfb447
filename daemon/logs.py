"""Log lines: one renderer for the daemon's own (structlog) and for those of libraries (logging, warnings).

Event names are short and never change with the data: what varies goes into the keys of the line.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from daemon.redaction import redact

LogFormat = Literal["auto", "json", "console"]

#: Packages heard from the configured level on; all others from ``warning`` on.
OWN_PACKAGES = ("daemon", "zcollection_engine")

# distributed gives these handlers of their own when it is imported before the root logger has one.
_LIBRARIES_WITH_HANDLERS = ("bokeh", "distributed", "tornado")


def configure(log_format: LogFormat = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all log lines of this process to ``stream``.

    May be called again; the last call holds. Handlers that others gave to the root logger stay.

    Parameters
    ----------
    log_format
        "json" (one object a line), "console" (text), or "auto": "console" if ``stream`` is a terminal.
    level
        "debug", "info", "warning" or "error": the least severe level of the daemon's and the engine's own
        lines.
    stream
        Where lines go; None for standard error as it is now.
    """
    stream = sys.stderr if stream is None else stream
    is_console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_timestamp,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.addFilter(_is_heard)
    handler.setFormatter(_formatter(shared, is_console=is_console, colours=stream.isatty()))
    _install(handler, level.upper())


def context(
    *, granule: str | None = None, collection: str | None = None, partition: str | None = None, **others: Any
) -> AbstractContextManager[None]:
    """Give every line logged inside the block the keys that are not None.

    Also lines of tasks started there. ``granule`` is the granule's key.
    """
    known = {"granule": granule, "collection": collection, "partition": partition, **others}
    return structlog.contextvars.bound_contextvars(**{k: v for k, v in known.items() if v is not None})


class _Handler(logging.StreamHandler[TextIO]):
    """The one handler of `configure`."""


def _is_heard(record: logging.LogRecord) -> bool:
    # At the handler, since libraries set the level of their loggers when they are imported.
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OWN_PACKAGES


def _install(handler: _Handler, level: str) -> None:
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in OWN_PACKAGES:
        logging.getLogger(name).setLevel(level)
    for name in _LIBRARIES_WITH_HANDLERS:
        library = logging.getLogger(name)
        for old_handler in tuple(library.handlers):
            library.removeHandler(old_handler)
        library.propagate = True
    logging.captureWarnings(True)


def _formatter(shared: list[Processor], *, is_console: bool, colours: bool) -> logging.Formatter:
    renderer: Processor
    if is_console:
        renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _redact,
            renderer,
        ],
    )


def _add_timestamp(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """RFC 3339, UTC, milliseconds."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    event_dict["timestamp"] = now.replace("+00:00", "Z")
    return event_dict


def _redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Take secrets out; the keys that every line has come first."""
    first = {key: event_dict[key] for key in ("timestamp", "level", "event") if key in event_dict}
    return {key: redact(value, key) for key, value in {**first, **event_dict}.items()}
