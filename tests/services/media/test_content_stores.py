"""Storage providers: another folder, and a real server with the S3 API."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import trio

from hs.core.errors import NotFound
from hs.lib.s3 import S3Bucket
from hs.services.media.content_stores import ContentStore, FolderStore, ProviderStore
from hs.settings.sections.media import S3ProviderSettings
from hs.storage.database import Database
from hs.storage.media import media_files
from tests.support.media import SERVER, MediaWorld, open_media
from tests.support.servers.s3 import running_s3

HOUR_MS = 3600 * 1000
# More than one part of a multipart upload.
LARGE = os.urandom(1 << 20) * 20


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ContentStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "elsewhere")
    return bucket(request.getfixturevalue("s3_url"), f"test-{time.time_ns()}", exists=True)


def bucket(url: str, name: str, *, exists: bool) -> S3Bucket:
    """Return a client of a bucket, and create the bucket if `exists`."""
    if exists:
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket=name)
        client.close()
    return S3Bucket(
        bucket=name,
        prefix="media/",
        endpoint_url=url,
        region_name="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
        session_token=None,
        storage_class=S3ProviderSettings().storage_class,
        threads=4,
    )


def synchronous(store: ContentStore) -> ProviderStore:
    return ProviderStore(store, takes_local=True, takes_remote=True, is_synchronous=True)


def delete_from_folder(world: MediaWorld, location: str | None) -> None:
    """Delete a file from the media folder."""
    assert location is not None
    world.contents.folder.path_of(location).unlink()


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_missing_file_is_restored_from_the_provider(
    database: Database, tmp_path: Path, store: ContentStore, content: bytes
) -> None:
    async with open_media(database, tmp_path, places=[synchronous(store)]) as world:
        stored = await world.store(content)
        delete_from_folder(world, stored.location)

        assert await world.content_of(stored) == content
        assert len(world.files("content")) == 1
        assert world.files("temporary") == []


async def test_file_missing_everywhere_is_not_found(
    database: Database, tmp_path: Path, store: ContentStore
) -> None:
    async with open_media(database, tmp_path, places=[synchronous(store)]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        delete_from_folder(world, stored.location)
        await store.remove(stored.location)

        with pytest.raises(NotFound):
            await world.contents.ensure(stored.location)


async def test_content_is_deleted_from_the_provider(
    database: Database, tmp_path: Path, store: ContentStore
) -> None:
    async with open_media(database, tmp_path, places=[synchronous(store)]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        world.clock.advance(2 * HOUR_MS)
        await world.repository.delete(SERVER, stored.media_id)
        await world.upkeep.clean_up()

        assert not await store.fetch(stored.location, tmp_path / "again")


async def test_copies_are_made_in_the_background(
    database: Database, tmp_path: Path, store: ContentStore
) -> None:
    provider = ProviderStore(store, takes_local=True, takes_remote=False, is_synchronous=False)
    async with open_media(database, tmp_path, places=[provider]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        with trio.fail_after(60):
            while True:
                if not await database.read(media_files.list_uncopied, SERVER, 1):
                    break
                await trio.sleep(0.01)

        assert await store.fetch(stored.location, tmp_path / "again")


class _UnavailableStore:
    """A store that is temporarily unavailable."""

    def __init__(self, store: ContentStore) -> None:
        self.store = store
        self.is_unavailable = True

    async def put(self, location: str, source: Path) -> None:
        self._check()
        await self.store.put(location, source)

    async def fetch(self, location: str, target: Path) -> bool:
        self._check()
        return await self.store.fetch(location, target)

    async def remove(self, location: str) -> None:
        self._check()
        await self.store.remove(location)

    def _check(self) -> None:
        if self.is_unavailable:
            raise OSError("out of order")


async def test_missing_copies_are_made_by_the_cleanup(database: Database, tmp_path: Path) -> None:
    store = _UnavailableStore(FolderStore(tmp_path / "elsewhere"))
    provider = ProviderStore(store, takes_local=True, takes_remote=True, is_synchronous=False)
    async with open_media(database, tmp_path, places=[provider]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        await trio.testing.wait_all_tasks_blocked()
        uncopied = await database.read(media_files.list_uncopied, SERVER, 5)
        store.is_unavailable = False
        await world.upkeep.clean_up()

        assert uncopied == [(stored.location, True)]
        assert await store.fetch(stored.location, tmp_path / "again")
        assert await database.read(media_files.list_uncopied, SERVER, 5) == []


async def test_upload_fails_while_a_synchronous_provider_is_unavailable(
    database: Database, tmp_path: Path
) -> None:
    store = _UnavailableStore(FolderStore(tmp_path / "elsewhere"))
    async with open_media(database, tmp_path, places=[synchronous(store)]) as world:
        refused = await world.client.post("/_matrix/media/v3/upload", token="alice", body=b"a")
        remaining = world.files("content")
        store.is_unavailable = False
        accepted = await world.client.post("/_matrix/media/v3/upload", token="alice", body=b"a")

    assert (refused.status, remaining) == (503, [])
    assert accepted.status == 200


async def test_download_fails_while_the_provider_is_unavailable(
    database: Database, tmp_path: Path
) -> None:
    store = _UnavailableStore(FolderStore(tmp_path / "elsewhere"))
    store.is_unavailable = False
    async with open_media(database, tmp_path, places=[synchronous(store)]) as world:
        stored = await world.store(b"content")
        delete_from_folder(world, stored.location)
        path = f"/_matrix/client/v1/media/download/test/{stored.media_id}"
        store.is_unavailable = True
        refused = await world.client.get(path, token="alice")
        store.is_unavailable = False
        response = await world.client.get(path, token="alice")

    assert refused.status == 503
    assert (response.status, response.body) == (200, b"content")


async def test_failed_deletion_is_repeated_by_the_next_cleanup(
    database: Database, tmp_path: Path
) -> None:
    store = _UnavailableStore(FolderStore(tmp_path / "elsewhere"))
    store.is_unavailable = False
    async with open_media(database, tmp_path, places=[synchronous(store)]) as world:
        stored = await world.store(b"content")
        await world.repository.delete(SERVER, stored.media_id)
        world.clock.advance(2 * HOUR_MS)
        store.is_unavailable = True
        await world.upkeep.clean_up()
        remaining = world.files("content")
        store.is_unavailable = False
        await world.upkeep.clean_up()

        assert len(remaining) == 1
        assert world.files("content") == []


async def test_unreachable_bucket_raises_os_error(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    unreachable = bucket("http://127.0.0.1:1", "nowhere", exists=False)

    with pytest.raises(OSError, match="bucket nowhere"):
        await unreachable.put("content/file", source)


async def test_missing_bucket_raises_os_error(s3_url: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")

    with pytest.raises(OSError, match="NoSuchBucket"):
        await bucket(s3_url, "never-made", exists=False).put("content/file", source)
