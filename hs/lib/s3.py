"""A bucket in an S3-compatible store; the only importer of boto3, which is optional.

Calls block, so they run in threads. Files are transferred in parts and never held in memory whole.
"""

from pathlib import Path
from typing import Any, Final

import attrs
import boto3
import trio
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

CONNECT_S: Final = 10
READ_S: Final = 60
PART_BYTES: Final = 8 << 20
_ABSENT: Final = frozenset(("404", "NoSuchKey", "NotFound"))


@attrs.define(eq=False)
class S3Bucket:
    """A bucket that stores files by name; failures of the store are raised as OSError."""

    bucket: str
    prefix: str
    endpoint_url: str | None
    region_name: str | None
    access_key_id: str | None
    secret_access_key: str | None = attrs.field(repr=False)
    session_token: str | None = attrs.field(repr=False)
    storage_class: str
    threads: int
    _limiter: trio.CapacityLimiter = attrs.field(init=False)
    _client: Any = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._limiter = trio.CapacityLimiter(self.threads)

    async def put(self, location: str, source: Path) -> None:
        """Upload a copy of a file.

        Raises: OSError.
        """
        await self._work(self._put, self.prefix + location, str(source))

    async def fetch(self, location: str, target: Path) -> bool:
        """Download an object to a file; return False if it does not exist.

        Raises: OSError.
        """
        return bool(await self._work(self._fetch, self.prefix + location, str(target)))

    async def remove(self, location: str) -> None:
        """Delete an object, if it exists.

        Raises: OSError.
        """
        await self._work(self._remove, self.prefix + location)

    async def _work(self, function: Any, *args: str) -> Any:
        return await trio.to_thread.run_sync(
            self._translated, function, *args, limiter=self._limiter
        )

    def _translated(self, function: Any, *args: str) -> Any:
        try:
            return function(*args)
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error) as error:
            raise OSError(f"bucket {self.bucket}: {error}") from error

    def _open_client(self) -> Any:
        """Create the client on first use; threads may share it."""
        if self._client is None:
            session = boto3.session.Session(
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
                aws_session_token=self.session_token,
                region_name=self.region_name,
            )
            self._client = session.client(
                "s3",
                endpoint_url=self.endpoint_url,
                config=Config(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    max_pool_connections=self.threads,
                    retries={"mode": "standard", "max_attempts": 3},
                ),
            )
        return self._client

    def _put(self, key: str, source: str) -> None:
        self._open_client().upload_file(
            source,
            self.bucket,
            key,
            ExtraArgs={"StorageClass": self.storage_class},
            Config=_TRANSFER,
        )

    def _fetch(self, key: str, target: str) -> bool:
        try:
            self._open_client().download_file(self.bucket, key, target, Config=_TRANSFER)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _ABSENT:
                return False
            raise
        return True

    def _remove(self, key: str) -> None:
        self._open_client().delete_object(Bucket=self.bucket, Key=key)


_TRANSFER: Final = TransferConfig(multipart_chunksize=PART_BYTES, use_threads=False)
