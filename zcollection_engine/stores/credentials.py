"""AWS credentials for obstore, which by itself looks only at the environment and at roles."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.credentials import RefreshableCredentials

from zcollection_engine.errors import StorageError

if TYPE_CHECKING:
    from obstore.store import S3Credential

_DEFAULT_REGION = "us-east-1"

#: botocore renews credentials at the latest 10 minutes before they expire; ours are asked for again well within.
_LIFETIME = timedelta(minutes=5)


class BotocoreCredentials:
    """Credentials from botocore's whole chain: profiles, single sign-on, web identity, container and instance roles.

    Parameters
    ----------
    session
        A botocore session.

    Raises
    ------
    StorageError
        The chain has no credentials.
    """

    def __init__(self, session: Any) -> None:
        self._credentials = session.get_credentials()
        if self._credentials is None:
            raise StorageError(
                "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a role, "
                "or AWS_SKIP_SIGNATURE=true for a public bucket"
            )

    def __call__(self) -> S3Credential:
        """Return valid credentials, renewed when needed."""
        frozen = self._credentials.get_frozen_credentials()
        renewable = isinstance(self._credentials, RefreshableCredentials)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _LIFETIME if renewable else None,
        }


def credential_provider() -> BotocoreCredentials | None:
    """Return what gives obstore its credentials; None where the environment says all that obstore needs.

    Raises
    ------
    StorageError
        There are none.
    """
    static = os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")
    unsigned = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in {"1", "true", "yes"}
    return None if static or unsigned else BotocoreCredentials(botocore.session.get_session())


def region(chosen: str | None) -> str:
    """Return the region: the one chosen, else that of the environment or of the profile, else "us-east-1"."""
    named = chosen or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or botocore.session.get_session().get_config_variable("region") or _DEFAULT_REGION


def endpoint(chosen: str | None) -> str | None:
    """Return the S3 service's address: the one chosen, else that of the environment; None for AWS."""
    return chosen or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
