"""Uploads: limits, MXC URIs created in advance, and downloads that wait for them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from hs.apis.web.http_request import ClientDisconnected
from hs.settings.sections.media import UploadLimit
from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media, parts_of
from tests.support.web import WebResponse

UPLOAD = "/_matrix/media/v3/upload"
CREATE = "/_matrix/media/v1/create"
DOWNLOAD = "/_matrix/client/v1/media/download"


async def post(
    world: MediaWorld, content: bytes, token: str = "alice", **headers: str
) -> WebResponse:
    return await world.client.post(UPLOAD, body=parts_of(content), token=token, headers=headers)


async def create_mxc(world: MediaWorld) -> str:
    response = await world.client.post(CREATE, token="alice")
    assert response.status == 200, response.body
    return str(response.json["content_uri"]).removeprefix("mxc://")


async def upload_to_mxc(
    world: MediaWorld, address: str, content: bytes = b"content", token: str = "alice"
) -> WebResponse:
    return await world.client.put(f"{UPLOAD}/{address}", body=parts_of(content), token=token)


async def test_upload_without_a_type_is_octet_stream(world: MediaWorld) -> None:
    address = (await post(world, b"x")).json["content_uri"].removeprefix("mxc://")

    response = await world.client.get(f"{DOWNLOAD}/{address}", token="alice")

    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == "attachment"


async def test_upload_requires_a_token(world: MediaWorld) -> None:
    response = await world.client.post(UPLOAD, body=b"x")

    assert (response.status, response.errcode) == (401, "M_MISSING_TOKEN")


async def test_upload_with_too_large_content_length_is_not_read(
    database: Database, tmp_path: Path
) -> None:
    async def unread_body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with open_media(database, tmp_path, max_upload_size=1000) as world:
        response = await world.client.post(
            UPLOAD, body=unread_body(), token="alice", headers={"content-length": "1001"}
        )

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")


async def test_upload_is_aborted_at_the_size_limit(database: Database, tmp_path: Path) -> None:
    parts_read = 0

    async def endless_body() -> AsyncGenerator[bytes]:
        nonlocal parts_read
        while True:
            parts_read += 1
            yield b"x" * 1000

    async with open_media(database, tmp_path, max_upload_size=100_000) as world:
        async with aclosing(endless_body()) as parts:
            response = await world.client.post(UPLOAD, body=parts, token="alice")

        assert (response.status, response.errcode) == (413, "M_TOO_LARGE")
        assert parts_read == 101
        assert world.files("temporary") == []
        assert world.files("content") == []


async def test_aborted_upload_leaves_no_file(world: MediaWorld) -> None:
    async def half_body() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        raise ClientDisconnected

    with pytest.raises(ConnectionError):
        await world.client.post(UPLOAD, body=half_body(), token="alice")

    assert world.files("temporary") == []


async def test_uploads_are_limited_per_user_and_time(database: Database, tmp_path: Path) -> None:
    limits = (UploadLimit(time_period=60_000, max_size=100),)
    async with open_media(database, tmp_path, media_upload_limits=limits) as world:
        world.tokens.user("bob")
        first = await post(world, b"x" * 90)
        second = await post(world, b"x" * 11)
        of_other_user = await post(world, b"x" * 11, token="bob")
        world.clock.advance(60_001)
        later = await post(world, b"x" * 11)

    assert [response.status for response in (first, of_other_user, later)] == [200, 200, 200]
    assert (second.status, second.errcode) == (403, "M_FORBIDDEN")


async def test_concurrent_uploads_do_not_exceed_the_limit(
    database: Database, tmp_path: Path
) -> None:
    limits = (UploadLimit(time_period=60_000, max_size=100),)
    statuses: list[int] = []
    async with open_media(database, tmp_path, media_upload_limits=limits) as world:

        async def upload(number: int) -> None:
            statuses.append((await post(world, b"%d" % number * 40)).status)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(upload, number)

    assert sorted(statuses) == [200, 200, 403, 403, 403, 403, 403, 403]


async def test_concurrently_created_uris_do_not_exceed_the_limit(world: MediaWorld) -> None:
    statuses: list[int] = []

    async def create() -> None:
        statuses.append((await world.client.post(CREATE, token="alice")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(create)

    assert sorted(statuses) == [200] * 5 + [429] * 7


async def test_content_is_uploaded_to_a_created_uri_once(world: MediaWorld) -> None:
    response = await world.client.post(CREATE, token="alice")
    address = response.json["content_uri"].removeprefix("mxc://")

    first = await upload_to_mxc(world, address)
    second = await upload_to_mxc(world, address)
    download = await world.client.get(f"{DOWNLOAD}/{address}", token="alice")

    assert response.json["unused_expires_at"] == world.clock.now_ms() + 86_400_000
    assert (first.status, first.json) == (200, {})
    assert (second.status, second.errcode) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    assert download.body == b"content"


async def test_only_the_creator_can_upload_to_a_uri(world: MediaWorld) -> None:
    world.tokens.user("bob")
    address = await create_mxc(world)

    of_other_user = await upload_to_mxc(world, address, token="bob")
    unknown = await upload_to_mxc(world, "test/neverAnnounced")
    remote = await upload_to_mxc(world, "elsewhere.example/some")

    assert (of_other_user.status, of_other_user.errcode) == (403, "M_FORBIDDEN")
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert (remote.status, remote.errcode) == (404, "M_NOT_FOUND")


async def test_one_of_concurrent_uploads_to_a_uri_succeeds(world: MediaWorld) -> None:
    address = await create_mxc(world)
    statuses: list[int] = []

    async def upload(content: bytes) -> None:
        statuses.append((await upload_to_mxc(world, address, content)).status)

    async with trio.open_nursery() as nursery:
        for content in (b"one", b"two"):
            nursery.start_soon(upload, content)

    assert sorted(statuses) == [200, 409]


async def test_created_uri_expires(world: MediaWorld) -> None:
    address = await create_mxc(world)
    world.clock.advance(86_400_001)

    upload = await upload_to_mxc(world, address)
    download = await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=0", token="alice")

    assert (upload.status, upload.errcode) == (404, "M_NOT_FOUND")
    assert (download.status, download.errcode) == (404, "M_NOT_FOUND")


async def test_created_uris_without_content_are_limited(world: MediaWorld) -> None:
    addresses = [await create_mxc(world) for _ in range(5)]

    too_many = await world.client.post(CREATE, token="alice")
    await upload_to_mxc(world, addresses[0])
    after_upload = await world.client.post(CREATE, token="alice")

    assert (too_many.status, too_many.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert too_many.json["retry_after_ms"] > 0
    assert after_upload.status == 200


async def test_download_before_the_upload_times_out(world: MediaWorld) -> None:
    address = await create_mxc(world)

    response = await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=10", token="alice")

    assert (response.status, response.errcode) == (504, "M_NOT_YET_UPLOADED")


async def test_waiting_download_gets_the_content_after_the_upload(world: MediaWorld) -> None:
    address = await create_mxc(world)
    responses: list[WebResponse] = []

    async def wait() -> None:
        responses.append(
            await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=60000", token="alice")
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await upload_to_mxc(world, address, b"late")

    assert (responses[0].status, responses[0].body) == (200, b"late")


async def test_waiting_download_ends_when_the_drain_begins(world: MediaWorld) -> None:
    address = await create_mxc(world)
    responses: list[WebResponse] = []

    async def wait() -> None:
        responses.append(
            await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=60000", token="alice")
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        world.process.drain.begin()

    assert (responses[0].status, responses[0].errcode) == (504, "M_NOT_YET_UPLOADED")
