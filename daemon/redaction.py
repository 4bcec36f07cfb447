"""Takes secrets out of what people and machines get to read."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import Any

MASK = "***"

_SECRET_NAME = re.compile(r"secret|token|passw(?:or)?d|passphrase|authorization|credential|signature", re.IGNORECASE)

_CREDENTIALS_IN_URL = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@'\"]+@")

# A name that tells of a secret, "=" or ":", and a value. Digits alone stay: the engine's grants are numbered.
_SECRET_IN_TEXT = re.compile(
    r"(?P<name>[\w-]*(?:secret|token|passw(?:or)?d|passphrase|signature)[\w-]*[\"']?\s*[=:]\s*[\"']?)"
    r"(?!\d+(?!\w))[^\s\"'&,;}]+",
    re.IGNORECASE,
)


def redact_text(text: str) -> str:
    """Mask credentials in URLs (``s3://user:password@host``) and values that follow a secret's name."""
    masked = _CREDENTIALS_IN_URL.sub(rf"\g<scheme>{MASK}@", text)
    return _SECRET_IN_TEXT.sub(rf"\g<name>{MASK}", masked)


def redact(value: Any, name: str = "") -> Any:
    """Copy a value as plain JSON types without its secrets.

    A text, bytes or container under a secret's name is masked whole; numbers stay, since the number of a
    grant is called a token too. Objects become their text, floats that JSON cannot hold as well.
    """
    if value is None or isinstance(value, numbers.Number):
        return _plain_number(value)
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {str(key): redact(below, str(key)) for key, below in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray | memoryview):
        return [redact(entry) for entry in value]
    return redact_text(_text(value))


def _text(value: object) -> str:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return str(value)


def _plain_number(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    return str(value)
