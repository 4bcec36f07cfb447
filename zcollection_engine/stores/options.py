"""How to reach a store: what a URL does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StorageOptions:
    """Where the cloud is. Credentials are never here: they come from the usual chain of each provider.

    Attributes
    ----------
    endpoint_url
        The S3 service's address ("http://127.0.0.1:9000"); None for AWS itself, or for what ``AWS_ENDPOINT_URL_S3``
        and ``AWS_ENDPOINT_URL`` name.
    region
        The S3 service's region; None for that of the environment or profile, else "us-east-1".
    s3_client
        Library that talks to ``s3://`` URLs.
    """

    endpoint_url: str | None = None
    region: str | None = None
    s3_client: Literal["obstore", "s3fs"] = "obstore"
