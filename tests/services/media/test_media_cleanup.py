"""Media files: shared by equal uploads, complete after a crash, deleted with their last address."""

import os
import signal
import stat
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
from hs.services.media.synapse_media_folder import synapse_location
from hs.settings.sections.media import MediaRetentionSettings
from hs.storage.database import Database, Tx
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


async def test_concurrent_equal_uploads_share_one_file(world: MediaWorld) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(world.store, b"the same")

    assert len(world.files("content")) == 1


async def test_shared_file_is_kept_until_its_last_address_is_deleted(world: MediaWorld) -> None:
    first, second = [await world.store(b"the same") for _ in range(2)]
    world.clock.advance(2 * HOUR_MS)

    await world.repository.delete(SERVER, first.media_id)
    await world.clean_up()
    remaining_content = await world.content_of(second)
    await world.repository.delete(SERVER, second.media_id)
    await world.clean_up()

    assert remaining_content == b"the same"
    assert world.files("") == []


async def test_thumbnails_are_deleted_with_their_file(world: MediaWorld) -> None:
    stored = await world.store(picture(), "application/octet-stream")
    assert stored.location is not None
    await world.thumbnails.generate_in_advance(stored.location)
    thumbnails = world.files("thumbnails")
    world.clock.advance(2 * HOUR_MS)

    await world.repository.delete(SERVER, stored.media_id)
    await world.clean_up()

    assert thumbnails
    assert world.files("") == []


async def test_file_uploaded_again_before_the_cleanup_is_kept(world: MediaWorld) -> None:
    stored = await world.store(b"content")
    world.clock.advance(2 * HOUR_MS)
    await world.repository.delete(SERVER, stored.media_id)

    uploaded_again = await world.store(b"content")
    await world.clean_up()

    assert await world.content_of(uploaded_again) == b"content"


async def test_retention_deletes_unused_media(database: Database, tmp_path: Path) -> None:
    retention = MediaRetentionSettings(local_media_lifetime=10 * HOUR_MS)
    async with open_media(database, tmp_path, media_retention=retention) as world:
        unused, used = await world.store(b"unused"), await world.store(b"used")
        world.clock.advance(6 * HOUR_MS)
        async with world.process.duties("media access times"):
            await world.repository.find(SERVER, used.media_id, 0, has_token=True)
        world.clock.advance(6 * HOUR_MS)

        await world.clean_up()

        media = await world.repository.find(SERVER, used.media_id, 0, has_token=True)
        assert await world.content_of(media) == b"used"
        with pytest.raises(NotFound):
            await world.repository.find(SERVER, unused.media_id, 0, has_token=True)
        assert len(world.files("content")) == 1


async def test_expired_addresses_are_deleted(world: MediaWorld) -> None:
    for _ in range(5):
        await world.repository.create(world.alice)
    world.clock.advance(25 * HOUR_MS)

    await world.clean_up()

    assert await world.repository.create(world.alice)


async def test_files_left_by_a_crash_are_deleted_after_a_day(world: MediaWorld) -> None:
    stored = await world.store(b"stored")
    await world.clean_up()
    await world.contents.folder.write(b"lost", "content/aa/bb/lost")
    await world.contents.folder.write(b"new", "content/aa/bb/new")
    await world.contents.folder.write(b"half", "temporary/half")
    await world.contents.folder.write(b"small", "thumbnails/content/aa/bb/lost/1x1-crop.png")
    assert stored.location is not None
    day_before = time.time() - 25 * 3600
    for path in world.files(""):
        if path.name != "new":
            os.utime(path, (day_before, day_before))

    await world.clean_up()

    remaining = {str(path.relative_to(world.root)) for path in world.files("")}
    assert remaining == {stored.location, "content/aa/bb/new"}


async def forget_media(tx: Tx) -> None:
    await tx.execute("DELETE FROM media")
    await tx.execute("DELETE FROM media_files")


async def become_another_database(tx: Tx) -> None:
    await forget_media(tx)
    await tx.execute("DELETE FROM database_identity")


def make_older(world: MediaWorld) -> None:
    day_before = time.time() - 25 * 3600
    for path in world.files(""):
        os.utime(path, (day_before, day_before))


async def test_another_database_deletes_no_file_of_the_folder(
    world: MediaWorld, caplog: pytest.LogCaptureFixture
) -> None:
    stored = await world.store(b"stored")
    await world.clean_up()
    await world.process.base.database.write(become_another_database)
    make_older(world)

    await world.clean_up()

    assert [str(path.relative_to(world.root)) for path in world.files("")] == [stored.location]
    assert "does not belong to this database" in caplog.text


async def test_empty_database_does_not_take_a_folder_with_files(world: MediaWorld) -> None:
    await world.store(b"stored")
    await world.process.base.database.write(forget_media)
    make_older(world)

    await world.clean_up()

    assert len(world.files("content")) == 1
    assert await world.contents.folder.owner() == ""


async def test_folder_without_owner_is_taken_if_its_files_are_known(world: MediaWorld) -> None:
    for content in (b"first", b"second"):
        await world.store(content)
    await world.contents.folder.write(b"lost", "content/aa/bb/lost")
    make_older(world)

    await world.clean_up()

    assert len(world.files("content")) == 2
    assert await world.contents.folder.owner() != ""


async def test_media_files_can_be_used_by_their_owner_only(world: MediaWorld) -> None:
    before = os.umask(0)
    try:
        stored = await world.store(picture(), "image/png")
        assert stored.location is not None
        await world.thumbnails.generate_in_advance(stored.location)
        await world.clean_up()
    finally:
        os.umask(before)

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in world.root.rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}


async def test_file_of_a_synapse_folder_is_read_in_place(world: MediaWorld) -> None:
    media_id = "GerZNDnDZVjsOtardLuwfIBg"
    path = world.root / synapse_location(media_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(picture(10, 10))

    media = await world.repository.find(SERVER, media_id, 0, has_token=False)

    assert str(path).endswith("local_content/Ge/rZ/NDnDZVjsOtardLuwfIBg")
    assert (media.content_type, media.location) == ("image/png", synapse_location(media_id))
    assert await world.content_of(media) == picture(10, 10)


async def test_missing_file_is_not_found(world: MediaWorld) -> None:
    stored = await world.store(b"content")
    assert stored.location is not None
    world.contents.folder.path_of(stored.location).unlink()

    with pytest.raises(NotFound):
        await world.contents.ensure(stored.location)


async def test_folder_that_is_not_writable_is_logged(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "media").write_text("a file where the folder should be")

    async with open_media(database, tmp_path) as world:
        answer = await world.client.post("/_matrix/media/v3/upload", body=b"content", token="alice")

    assert "media_store_path" in caplog.text
    assert (answer.status, answer.errcode) == (503, "M_UNKNOWN")


async def test_content_of_the_server_is_stored_without_limits(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(database, tmp_path, max_upload_size=1) as world:
        stored = await world.repository.store(b"a picture", "image/png", None, None)

        assert await world.content_of(stored) == b"a picture"


async def test_quarantined_media_is_not_found(world: MediaWorld) -> None:
    stored = await world.store(b"bad")
    await world.repository.quarantine(SERVER, stored.media_id, UserID("@admin:test"))

    with pytest.raises(NotFound):
        await world.repository.find(SERVER, stored.media_id, 0, has_token=True)


def test_crash_before_the_rename_leaves_no_target_file(tmp_path: Path) -> None:
    source, target = tmp_path / "temporary", tmp_path / "content" / "aa" / "file"
    source.write_bytes(b"content")

    crashed = subprocess.run([sys.executable, "-c", CRASH, source, target], check=False)

    assert crashed.returncode == -signal.SIGKILL
    assert not target.exists()
    files.install(source, target)
    assert target.read_bytes() == b"content"


def test_failed_copy_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.copy(tmp_path / "nothing", tmp_path / "there" / "file")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@settings(max_examples=20, deadline=None)
@given(
    content=st.binary(max_size=3000),
    repetitions=st.integers(min_value=1, max_value=400),
    part_bytes=st.integers(min_value=1, max_value=70_000),
    data=st.data(),
)
async def test_any_range_of_any_content_can_be_read(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    repetitions: int,
    part_bytes: int,
    data: st.DataObject,
) -> None:
    full_content = content * repetitions
    start = data.draw(st.integers(min_value=0, max_value=len(full_content)))
    length = data.draw(st.integers(min_value=0, max_value=len(full_content) - start))
    folder = MediaFolder(tmp_path_factory.mktemp("folder"))

    async with folder.receive(parts_of(full_content, part_bytes), len(full_content)) as received:
        await folder.install(received, "content/file")
    parts = [part async for part in folder.read("content/file", start, length)]

    assert b"".join(parts) == full_content[start : start + length]
    assert received.size_bytes == len(full_content)
