"""Loads the S3 client, whose library is installed only where S3 is used."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hs.lib.optional_libraries import is_installed


class Bucket(Protocol):
    """Files in an S3 bucket; failures of the store raise OSError."""

    async def put(self, location: str, source: Path) -> None:
        """Store a copy of a file."""
        ...

    async def fetch(self, location: str, target: Path) -> bool:
        """Write the content to a file; return whether there is such a content."""
        ...

    async def remove(self, location: str) -> None:
        """Delete the content, if it exists."""
        ...


def is_s3_available() -> bool:
    """Return whether the library for S3 is installed."""
    return is_installed("boto3")


def load_s3_bucket() -> Callable[..., Bucket]:
    """Return the class `hs.lib.s3.S3Bucket`. Raises: ImportError, if the library is missing."""
    bucket: Callable[..., Bucket] = importlib.import_module("hs.lib.s3").S3Bucket
    return bucket
