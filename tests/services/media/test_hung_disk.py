"""A disk that hangs: media fail within a bound, in few threads, and nothing else is affected."""

import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from hs.lib.disk_threads import THREADS_OF_FILE, DiskHangs, DiskThreads
from hs.services.media import media_folder
from hs.services.media.media_folder import CONTENT, TEMPORARY, THREADS
from hs.storage.database import Database
from tests.support.media import open_media
from tests.support.web import WebResponse

ANSWER_S = 2.0
DEADLINE_S = 60.0
UPLOAD = "/_matrix/media/v3/upload"
VERSIONS = "/_matrix/client/versions"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_S", "FLUSH_ANSWER_S"):
        monkeypatch.setattr(media_folder, name, ANSWER_S)


def hang(path: Path) -> None:
    """Replace a file by a pipe, which nobody can open for reading until somebody writes."""
    path.unlink()
    os.mkfifo(path)


def answer(path: Path) -> None:
    """Let everybody go on who waits for a pipe."""
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    for _ in range(100):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return


@pytest.mark.usefixtures("impatient")
async def test_downloads_from_a_hung_disk_are_unavailable(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(database, tmp_path) as world:
        stored = await world.store(b"content")
        other = await world.store(b"other")
        assert stored.location is not None
        file = world.contents.folder.path_of(stored.location)
        hang(file)
        path = f"/_matrix/client/v1/media/download/test/{stored.media_id}"
        responses: list[WebResponse] = []

        async def download() -> None:
            responses.append(await world.client.get(path, token="alice"))

        threads_before = threading.active_count()
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                for _ in range(3 * THREADS):
                    nursery.start_soon(download)
                await trio.testing.wait_all_tasks_blocked(0.1)
                # Other files are read meanwhile.
                assert await world.content_of(other) == b"other"
                assert not responses
            versions = await world.client.get(VERSIONS)
            refused = await world.client.get(path, token="alice")

        assert {(response.status, response.errcode) for response in responses} == {
            (503, "M_UNKNOWN")
        }
        assert (versions.status, refused.status) == (200, 503)
        assert threading.active_count() - threads_before <= THREADS_OF_FILE + 3
        assert world.contents.folder.threads.left_behind == THREADS_OF_FILE
        assert await world.content_of(other) == b"other"

        answer(file)
        with trio.fail_after(DEADLINE_S):
            while True:
                if not world.contents.folder.threads.left_behind:
                    break
                answer(file)
                await trio.sleep(0.01)
        assert await world.content_of(other) == b"other"


@pytest.mark.usefixtures("impatient")
async def test_uploads_to_a_hung_disk_are_unavailable(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_media(database, tmp_path) as world:
        answers = threading.Event()
        fsync = os.fsync

        def hang_in_fsync(descriptor: int) -> None:
            answers.wait(DEADLINE_S)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", hang_in_fsync)
        with trio.fail_after(DEADLINE_S):
            refused = await world.client.post(UPLOAD, token="alice", body=b"first")
            versions = await world.client.get(VERSIONS)
        answers.set()
        with trio.fail_after(DEADLINE_S):
            while True:
                if not world.contents.folder.threads.left_behind:
                    break
                await trio.sleep(0.01)
        accepted = await world.client.post(UPLOAD, token="alice", body=b"second")

        assert (refused.status, refused.errcode) == (503, "M_UNKNOWN")
        assert (versions.status, accepted.status) == (200, 200)
        assert world.files(TEMPORARY) == []
        assert len(world.files(CONTENT)) == 2


async def test_threads_left_behind_are_counted_and_used_again() -> None:
    answers = threading.Event()
    threads = DiskThreads(2, 1.0)

    for _ in range(2):
        with pytest.raises(DiskHangs, match="did not answer"):
            await threads.run(answers.wait, DEADLINE_S)
    with pytest.raises(DiskHangs, match="does not answer"):
        await threads.run(lambda: 1)
    answers.set()
    with trio.fail_after(DEADLINE_S):
        while True:
            if not threads.left_behind:
                break
            await trio.sleep(0.01)

    assert await threads.run(lambda: 1) == 1
