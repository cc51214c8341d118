"""Further places for content: another folder, and a real store that speaks S3."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import trio

from hs.core.errors import NotFound
from hs.lib.s3 import S3Bucket
from hs.services.media.content_stores import ContentStore, FolderStore, Place
from hs.settings.sections.media import S3Settings
from hs.storage.database import Database
from hs.storage.media import media_files
from tests.support.media import SERVER, MediaWorld, open_media
from tests.support.s3 import running_s3

HOUR_MS = 3600 * 1000
# More than one part of a transfer.
LARGE = os.urandom(1 << 20) * 20


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ContentStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "elsewhere")
    return bucket(request.getfixturevalue("s3_url"), f"test-{time.time_ns()}", is_made=True)


def bucket(url: str, name: str, *, is_made: bool) -> S3Bucket:
    """Make a client of a bucket, and the bucket."""
    if is_made:
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
        storage_class=S3Settings().storage_class,
        threads=4,
    )


def waited_for(store: ContentStore) -> Place:
    return Place(store, takes_local=True, takes_remote=True, is_waited_for=True)


def lose(world: MediaWorld, location: str | None) -> None:
    """Delete a file from the folder of the media."""
    assert location is not None
    world.contents.folder.path_of(location).unlink()


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_what_is_lost_here_comes_back_from_there(
    database: Database, tmp_path: Path, store: ContentStore, content: bytes
) -> None:
    async with open_media(database, tmp_path, places=[waited_for(store)]) as world:
        stored = await world.store(content)
        lose(world, stored.location)

        assert await world.content_of(stored) == content
        assert len(world.files("content")) == 1
        assert world.files("temporary") == []


async def test_what_is_lost_everywhere_is_not_found(
    database: Database, tmp_path: Path, store: ContentStore
) -> None:
    async with open_media(database, tmp_path, places=[waited_for(store)]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        lose(world, stored.location)
        await store.remove(stored.location)

        with pytest.raises(NotFound):
            await world.contents.ensure(stored.location)


async def test_content_is_removed_there_as_well(
    database: Database, tmp_path: Path, store: ContentStore
) -> None:
    async with open_media(database, tmp_path, places=[waited_for(store)]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        world.clock.advance(2 * HOUR_MS)
        await world.repository.delete(SERVER, stored.media_id)
        await world.upkeep.tidy()

        assert not await store.fetch(stored.location, tmp_path / "again")


async def test_copies_are_made_in_the_background_and_finished_later(
    database: Database, tmp_path: Path, store: ContentStore
) -> None:
    place = Place(store, takes_local=True, takes_remote=False, is_waited_for=False)
    async with open_media(database, tmp_path, places=[place]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        with trio.fail_after(60):
            while True:
                if not await database.read(media_files.uncopied, SERVER, 1):
                    break
                await trio.sleep(0.01)

        assert await store.fetch(stored.location, tmp_path / "again")


class _Broken:
    """A place that cannot be reached, for a while."""

    def __init__(self, store: ContentStore) -> None:
        self.store = store
        self.is_broken = True

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
        if self.is_broken:
            raise OSError("out of order")


async def test_what_a_broken_place_missed_it_gets_later(database: Database, tmp_path: Path) -> None:
    broken = _Broken(FolderStore(tmp_path / "elsewhere"))
    place = Place(broken, takes_local=True, takes_remote=True, is_waited_for=False)
    async with open_media(database, tmp_path, places=[place]) as world:
        stored = await world.store(b"content")
        assert stored.location is not None
        await trio.testing.wait_all_tasks_blocked()
        missing = await database.read(media_files.uncopied, SERVER, 5)
        broken.is_broken = False
        await world.upkeep.tidy()

        assert missing == [(stored.location, True)]
        assert await broken.fetch(stored.location, tmp_path / "again")
        assert await database.read(media_files.uncopied, SERVER, 5) == []


async def test_an_upload_that_a_broken_place_holds_up_is_to_be_tried_again(
    database: Database, tmp_path: Path
) -> None:
    broken = _Broken(FolderStore(tmp_path / "elsewhere"))
    async with open_media(database, tmp_path, places=[waited_for(broken)]) as world:
        refused = await world.client.post("/_matrix/media/v3/upload", token="alice", body=b"a")
        left = world.files("content")
        broken.is_broken = False
        stored = await world.client.post("/_matrix/media/v3/upload", token="alice", body=b"a")

    assert (refused.status, left) == (503, [])
    assert stored.status == 200


async def test_what_a_broken_place_has_is_to_be_asked_for_again(
    database: Database, tmp_path: Path
) -> None:
    broken = _Broken(FolderStore(tmp_path / "elsewhere"))
    broken.is_broken = False
    async with open_media(database, tmp_path, places=[waited_for(broken)]) as world:
        stored = await world.store(b"content")
        lose(world, stored.location)
        path = f"/_matrix/client/v1/media/download/test/{stored.media_id}"
        broken.is_broken = True
        refused = await world.client.get(path, token="alice")
        broken.is_broken = False
        got = await world.client.get(path, token="alice")

    assert refused.status == 503
    assert (got.status, got.body) == (200, b"content")


async def test_a_removal_that_a_broken_place_held_up_is_done_later(
    database: Database, tmp_path: Path
) -> None:
    broken = _Broken(FolderStore(tmp_path / "elsewhere"))
    broken.is_broken = False
    async with open_media(database, tmp_path, places=[waited_for(broken)]) as world:
        stored = await world.store(b"content")
        await world.repository.delete(SERVER, stored.media_id)
        world.clock.advance(2 * HOUR_MS)
        broken.is_broken = True
        await world.upkeep.tidy()
        held_up = world.files("content")
        broken.is_broken = False
        await world.upkeep.tidy()

        assert len(held_up) == 1
        assert world.files("content") == []


async def test_a_store_that_is_not_there_is_a_fault_of_the_place(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    nowhere = bucket("http://127.0.0.1:1", "nowhere", is_made=False)

    with pytest.raises(OSError, match="bucket nowhere"):
        await nowhere.put("content/file", source)


async def test_a_bucket_that_is_not_there_is_no_absent_file(s3_url: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")

    with pytest.raises(OSError, match="NoSuchBucket"):
        await bucket(s3_url, "never-made", is_made=False).put("content/file", source)
