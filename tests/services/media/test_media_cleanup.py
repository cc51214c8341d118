"""Content: shared by equal uploads, whole after a crash, gone when nobody has its address."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.core.errors import NotFound
from hs.core.ids import UserID
from hs.lib import files
from hs.services.media.media_folder import MediaFolder
from hs.services.media.synapse_media_folder import old_location
from hs.settings.sections.media import Retention
from hs.storage.database import Database
from tests.support.media import SERVER, MediaWorld, open_media, parts_of, picture

HOUR_MS = 3600 * 1000
CRASH = """
import os, sys
from pathlib import Path
from hs.core.ids import UserID
from hs.lib import files
replace = os.replace
def crash(*paths):
    os.kill(os.getpid(), 9)
os.replace = crash
files.install(Path(sys.argv[1]), Path(sys.argv[2]))
"""


async def test_equal_uploads_share_one_file(world: MediaWorld) -> None:
    first, second = [await world.store(b"the same") for _ in range(2)]
    other = await world.store(b"another")

    assert first.media_id != second.media_id
    assert first.location == second.location != other.location
    assert len(world.files("content")) == 2


async def test_equal_uploads_at_once_share_one_file(world: MediaWorld) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(world.store, b"the same")

    assert len(world.files("content")) == 1


async def test_a_shared_file_stays_until_its_last_address_goes(world: MediaWorld) -> None:
    first, second = [await world.store(b"the same") for _ in range(2)]
    world.clock.advance(2 * HOUR_MS)

    await world.repository.delete(SERVER, first.media_id)
    await world.upkeep.tidy()
    kept = await world.content_of(second)
    await world.repository.delete(SERVER, second.media_id)
    await world.upkeep.tidy()

    assert kept == b"the same"
    assert world.files("") == []


async def test_thumbnails_go_with_their_file(world: MediaWorld) -> None:
    stored = await world.store(picture(), "application/octet-stream")
    assert stored.location is not None
    await world.thumbnails.draw_listed(stored.location)
    drawn = world.files("thumbnails")
    world.clock.advance(2 * HOUR_MS)

    await world.repository.delete(SERVER, stored.media_id)
    await world.upkeep.tidy()

    assert drawn
    assert world.files("") == []


async def test_a_file_uploaded_again_while_it_is_removed_stays(world: MediaWorld) -> None:
    stored = await world.store(b"content")
    world.clock.advance(2 * HOUR_MS)
    await world.repository.delete(SERVER, stored.media_id)

    again = await world.store(b"content")
    await world.upkeep.tidy()

    assert await world.content_of(again) == b"content"


async def test_retention_takes_what_nobody_asked_for(database: Database, tmp_path: Path) -> None:
    retention = Retention(local_media_lifetime=10 * HOUR_MS)
    async with open_media(database, tmp_path, media_retention=retention) as world:
        unused, used = await world.store(b"unused"), await world.store(b"used")
        world.clock.advance(6 * HOUR_MS)
        await world.repository.find(SERVER, used.media_id, 0, has_token=True)
        await world.uses.write()
        world.clock.advance(6 * HOUR_MS)

        await world.upkeep.tidy()

        found = await world.repository.find(SERVER, used.media_id, 0, has_token=True)
        assert await world.content_of(found) == b"used"
        with pytest.raises(NotFound):
            await world.repository.find(SERVER, unused.media_id, 0, has_token=True)
        assert len(world.files("content")) == 1


async def test_expired_addresses_are_forgotten(world: MediaWorld) -> None:
    for _ in range(5):
        await world.repository.announce(world.alice)
    world.clock.advance(25 * HOUR_MS)

    await world.upkeep.tidy()

    assert await world.repository.announce(world.alice)


async def test_files_of_a_crash_are_removed_after_a_day(world: MediaWorld) -> None:
    kept = await world.store(b"kept")
    await world.contents.folder.write(b"lost", "content/aa/bb/lost")
    await world.contents.folder.write(b"new", "content/aa/bb/new")
    await world.contents.folder.write(b"half", "temporary/half")
    await world.contents.folder.write(b"small", "thumbnails/content/aa/bb/lost/1x1-crop.png")
    assert kept.location is not None
    day_before = time.time() - 25 * 3600
    for path in world.files(""):
        if path.name != "new":
            os.utime(path, (day_before, day_before))

    await world.upkeep.tidy()

    left = {str(path.relative_to(world.root)) for path in world.files("")}
    assert left == {kept.location, "content/aa/bb/new"}


async def test_a_file_of_another_server_s_folder_is_read_in_place(world: MediaWorld) -> None:
    media_id = "GerZNDnDZVjsOtardLuwfIBg"
    path = world.root / old_location(media_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(picture(10, 10))

    found = await world.repository.find(SERVER, media_id, 0, has_token=False)

    assert str(path).endswith("local_content/Ge/rZ/NDnDZVjsOtardLuwfIBg")
    assert (found.content_type, found.location) == ("image/png", old_location(media_id))
    assert await world.content_of(found) == picture(10, 10)


async def test_content_that_is_lost_is_not_found(world: MediaWorld) -> None:
    stored = await world.store(b"content")
    assert stored.location is not None
    world.contents.folder.path_of(stored.location).unlink()

    with pytest.raises(NotFound):
        await world.contents.ensure(stored.location)


async def test_a_folder_that_cannot_be_written_to_is_told_of(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "media").write_text("a file where the folder should be")

    async with open_media(database, tmp_path) as world:
        answer = await world.client.post("/_matrix/media/v3/upload", body=b"content", token="alice")
        with trio.fail_after(60):
            while True:
                if "media_store_path" in caplog.text:
                    break
                await trio.sleep(0.01)

    assert (answer.status, answer.errcode) == (503, "M_UNKNOWN")


async def test_our_own_content_is_stored_without_limits(database: Database, tmp_path: Path) -> None:
    async with open_media(database, tmp_path, max_upload_size=1) as world:
        stored = await world.repository.store(b"a picture", "image/png", None, None)

        assert await world.content_of(stored) == b"a picture"


async def test_quarantined_media_are_not_found(world: MediaWorld) -> None:
    stored = await world.store(b"bad")
    await world.repository.quarantine(SERVER, stored.media_id, UserID("@admin:test"))

    with pytest.raises(NotFound):
        await world.repository.find(SERVER, stored.media_id, 0, has_token=True)


def test_a_crash_before_the_rename_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    source, target = tmp_path / "temporary", tmp_path / "content" / "aa" / "file"
    source.write_bytes(b"content")

    ended = subprocess.run([sys.executable, "-c", CRASH, source, target], check=False)

    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    files.install(source, target)
    assert target.read_bytes() == b"content"


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.copy(tmp_path / "nothing", tmp_path / "there" / "file")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@settings(max_examples=20, deadline=None)
@given(
    content=st.binary(max_size=3000),
    times=st.integers(min_value=1, max_value=400),
    cut=st.integers(min_value=1, max_value=70_000),
    data=st.data(),
)
async def test_any_part_of_any_content_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    times: int,
    cut: int,
    data: st.DataObject,
) -> None:
    whole = content * times
    start = data.draw(st.integers(min_value=0, max_value=len(whole)))
    length = data.draw(st.integers(min_value=0, max_value=len(whole) - start))
    folder = MediaFolder(tmp_path_factory.mktemp("folder"))

    async with folder.receive(parts_of(whole, cut), len(whole)) as received:
        await folder.keep(received, "content/file")
    parts = [part async for part in folder.read("content/file", start, length)]

    assert b"".join(parts) == whole[start : start + length]
    assert received.size_bytes == len(whole)
