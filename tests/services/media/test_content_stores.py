"""Storage providers: another folder, and a real server with the S3 API."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import boto3
import pytest
import trio

from hs.core.errors import NotFound
from hs.nursery.wiring.media import place_of
from hs.services.media.content_stores import ContentStore
from hs.settings.sections.media import FolderProviderSettings, S3ProviderSettings, StorageProvider
from hs.storage.database import Database
from hs.storage.media import media_files
from tests.support.media import SERVER, MediaWorld, open_media, until
from tests.support.servers.s3 import running_s3

HOUR_MS = 3600 * 1000
UPLOAD = "/_matrix/media/v3/upload"
# More than one part of a multipart upload.
LARGE = os.urandom(1 << 20) * 20


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with running_s3() as url:
        yield url


def bucket(url: str, name: str) -> S3ProviderSettings:
    return S3ProviderSettings(
        bucket=name,
        prefix="media/",
        endpoint_url=url,
        region_name="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
        threadpool_size=4,
    )


def new_bucket(url: str) -> S3ProviderSettings:
    """Create a bucket and return its settings."""
    place = bucket(url, f"test-{time.time_ns()}")
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name=place.region_name,
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
    )
    client.create_bucket(Bucket=place.bucket)
    client.close()
    return place


@pytest.fixture(params=["folder", "s3"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> StorageProvider:
    """A provider that has a copy before an upload succeeds."""
    if request.param == "folder":
        return synchronous(FolderProviderSettings(directory=tmp_path / "elsewhere"))
    return synchronous(new_bucket(request.getfixturevalue("s3_url")))


def synchronous(place: FolderProviderSettings | S3ProviderSettings) -> StorageProvider:
    return StorageProvider(place=place, store_local=True, store_remote=True, store_synchronous=True)


def store_of(world: MediaWorld) -> ContentStore:
    """Return the store of the provider."""
    return world.contents.providers[0].store


@attrs.frozen
class ProviderFolder:
    """The folder of a provider, which may be out of order."""

    root: Path

    @property
    def provider(self) -> StorageProvider:
        """A provider that has a copy before an upload succeeds."""
        return synchronous(FolderProviderSettings(directory=self.root))

    def fail(self) -> None:
        """Put a file where the folder is, so that each access fails."""
        self.root.rename(self._hidden)
        self.root.write_text("a file where the folder should be")

    def recover(self) -> None:
        """Put the folder back."""
        self.root.unlink()
        self._hidden.rename(self.root)

    @property
    def _hidden(self) -> Path:
        return self.root.with_suffix(".hidden")


@pytest.fixture
def folder(tmp_path: Path) -> ProviderFolder:
    root = tmp_path / "elsewhere"
    root.mkdir()
    return ProviderFolder(root)


def delete_from_folder(world: MediaWorld, location: str | None) -> None:
    """Delete a file from the media folder."""
    assert location is not None
    world.contents.folder.path_of(location).unlink()


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_missing_file_is_restored_from_the_provider(
    database: Database, tmp_path: Path, provider: StorageProvider, content: bytes
) -> None:
    async with open_media(database, tmp_path, media_storage_providers=(provider,)) as world:
        stored = await world.store(content)
        delete_from_folder(world, stored.location)

        assert await world.content_of(stored) == content
        assert len(world.files("content")) == 1
        assert world.files("temporary") == []


async def test_file_missing_everywhere_is_not_found(
    database: Database, tmp_path: Path, provider: StorageProvider
) -> None:
    async with open_media(database, tmp_path, media_storage_providers=(provider,)) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        delete_from_folder(world, stored.location)
        await store_of(world).remove(stored.location)

        with pytest.raises(NotFound):
            await world.contents.ensure(stored.location)


async def test_content_is_deleted_from_the_provider(
    database: Database, tmp_path: Path, provider: StorageProvider
) -> None:
    async with open_media(database, tmp_path, media_storage_providers=(provider,)) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        world.clock.advance(2 * HOUR_MS)
        await world.repository.delete(SERVER, stored.media_id)
        await world.clean_up()

        assert not await store_of(world).fetch(stored.location, tmp_path / "again")


async def test_copies_are_made_in_the_background(
    database: Database, tmp_path: Path, provider: StorageProvider
) -> None:
    provider = attrs.evolve(provider, store_remote=False, store_synchronous=False)
    async with open_media(database, tmp_path, media_storage_providers=(provider,)) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        with trio.fail_after(60):
            while True:
                if not await database.read(media_files.list_uncopied, SERVER, 1):
                    break
                await trio.sleep(0.01)

        assert await store_of(world).fetch(stored.location, tmp_path / "again")


async def test_missing_copies_are_made_by_the_cleanup(
    database: Database, tmp_path: Path, folder: ProviderFolder, caplog: pytest.LogCaptureFixture
) -> None:
    provider = attrs.evolve(folder.provider, store_synchronous=False)
    async with open_media(database, tmp_path, media_storage_providers=(provider,)) as world:
        folder.fail()
        stored = await world.store(b"content")
        assert stored.location is not None
        await until(lambda: "retrying at the next cleanup" in caplog.text)
        uncopied = await database.read(media_files.list_uncopied, SERVER, 5)
        folder.recover()
        await world.clean_up()

        assert uncopied == [(stored.location, True)]
        assert await store_of(world).fetch(stored.location, tmp_path / "again")
        assert await database.read(media_files.list_uncopied, SERVER, 5) == []


async def test_upload_fails_while_a_synchronous_provider_is_unavailable(
    database: Database, tmp_path: Path, folder: ProviderFolder
) -> None:
    providers = (folder.provider,)
    async with open_media(database, tmp_path, media_storage_providers=providers) as world:
        folder.fail()
        refused = await world.client.post(UPLOAD, token="alice", body=b"a")
        remaining = world.files("content")
        folder.recover()
        accepted = await world.client.post(UPLOAD, token="alice", body=b"a")

    assert (refused.status, remaining) == (503, [])
    assert accepted.status == 200


async def test_download_fails_while_the_provider_is_unavailable(
    database: Database, tmp_path: Path, folder: ProviderFolder
) -> None:
    providers = (folder.provider,)
    async with open_media(database, tmp_path, media_storage_providers=providers) as world:
        stored = await world.store(b"content")
        delete_from_folder(world, stored.location)
        path = f"/_matrix/client/v1/media/download/test/{stored.media_id}"
        folder.fail()
        refused = await world.client.get(path, token="alice")
        folder.recover()
        response = await world.client.get(path, token="alice")

    assert refused.status == 503
    assert (response.status, response.body) == (200, b"content")


async def test_failed_deletion_is_repeated_by_the_next_cleanup(
    database: Database, tmp_path: Path, folder: ProviderFolder
) -> None:
    providers = (folder.provider,)
    async with open_media(database, tmp_path, media_storage_providers=providers) as world:
        stored = await world.store(b"content")
        await world.repository.delete(SERVER, stored.media_id)
        world.clock.advance(2 * HOUR_MS)
        folder.fail()
        await world.clean_up()
        remaining = world.files("content")
        folder.recover()
        await world.clean_up()

        assert len(remaining) == 1
        assert world.files("content") == []


async def test_unreachable_bucket_raises_os_error(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    unreachable = StorageProvider(place=bucket("http://127.0.0.1:1", "nowhere"))

    with pytest.raises(OSError, match="bucket nowhere"):
        await place_of(unreachable).store.put("content/file", source)


async def test_missing_bucket_raises_os_error(s3_url: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    missing = StorageProvider(place=bucket(s3_url, "never-made"))

    with pytest.raises(OSError, match="NoSuchBucket"):
        await place_of(missing).store.put("content/file", source)
