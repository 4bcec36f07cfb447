"""What is taken out of texts and values before anybody reads them, and what stays."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.redaction import MASK, redact, redact_text

SECRETS = st.text("abcdefXYZ0123456789+/=", min_size=8, max_size=20).map(lambda s: f"q{s}q")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@host/bucket", "s3://***@host/bucket"),
        ("two: http://a:b@c and https://d@e", "two: http://***@c and https://***@e"),
        ("https://host/a@b?mail=x@y", "https://host/a@b?mail=x@y"),
        ("s3://bucket/prefix/granule.nc", "s3://bucket/prefix/granule.nc"),
        ("?X-Amz-Signature=abc&X-Amz-Date=1", "?X-Amz-Signature=***&X-Amz-Date=1"),
        ("X-Amz-Security-Token: abc", "X-Amz-Security-Token: ***"),
        ("{'SecretAccessKey': 'abc', 'n': 1}", "{'SecretAccessKey': '***', 'n': 1}"),
        ("password=abc, user=me", "password=***, user=me"),
        ("fenced by token=18", "fenced by token=18"),
        ("token=18abc", "token=***"),
        ("the token of the grant", "the token of the grant"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@given(
    secret=SECRETS,
    name=st.sampled_from(["aws_secret_access_key", "SessionToken", "db_password", "client-secret"]),
)
def test_no_value_under_a_secret_name_gets_through(secret: str, name: str) -> None:
    for value in (secret, [secret], {"x": secret}, secret.encode(), {name: secret}):
        assert secret not in json.dumps(redact({"outer": {name: value}}))
    assert secret not in redact_text(f"{name}={secret}")
    assert secret not in redact_text(json.dumps({name: secret}))


def test_values_become_plain_json() -> None:
    value = {
        "path": Path("a/b"),
        "time": datetime(2024, 1, 2, tzinfo=UTC),
        "error": KeyError("x"),
        "count": np.int64(3),
        "ratio": np.float32(0.5),
        "nan": float("nan"),
        "raw": b"\xff",
        "set": {1},
        "flag": True,
        7: (1, None),
    }
    assert redact(value) == {
        "path": "a/b",
        "time": "2024-01-02T00:00:00+00:00",
        "error": "KeyError: 'x'",
        "count": 3,
        "ratio": 0.5,
        "nan": "nan",
        "raw": "\\xff",
        "set": [1],
        "flag": True,
        "7": [1, None],
    }


def test_numbers_under_a_secret_name_stay() -> None:
    assert redact({"token": 4, "token_ok": True, "tokens": None, "token_text": "x"}) == {
        "token": 4,
        "token_ok": True,
        "tokens": None,
        "token_text": MASK,
    }
