"""Uploading: limits, addresses that are filled later, and waiting for them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from hs.apis.web.http_request import ClientGone
from hs.settings.sections.media import UploadLimit
from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media, parts_of
from tests.support.web import Answer

UPLOAD = "/_matrix/media/v3/upload"
CREATE = "/_matrix/media/v1/create"
DOWNLOAD = "/_matrix/client/v1/media/download"


async def post(world: MediaWorld, content: bytes, token: str = "alice", **headers: str) -> Answer:
    return await world.client.post(UPLOAD, body=parts_of(content), token=token, headers=headers)


async def announce(world: MediaWorld) -> str:
    answer = await world.client.post(CREATE, token="alice")
    assert answer.status == 200, answer.body
    return str(answer.json["content_uri"]).removeprefix("mxc://")


async def fill(
    world: MediaWorld, address: str, content: bytes = b"content", token: str = "alice"
) -> Answer:
    return await world.client.put(f"{UPLOAD}/{address}", body=parts_of(content), token=token)


async def test_an_upload_without_a_type_is_of_no_known_one(world: MediaWorld) -> None:
    address = (await post(world, b"x")).json["content_uri"].removeprefix("mxc://")

    answer = await world.client.get(f"{DOWNLOAD}/{address}", token="alice")

    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


async def test_an_upload_needs_a_token(world: MediaWorld) -> None:
    answer = await world.client.post(UPLOAD, body=b"x")

    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


async def test_an_upload_that_says_it_is_too_large_is_not_received(
    database: Database, tmp_path: Path
) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    async with open_media(database, tmp_path, max_upload_size=1000) as world:
        answer = await world.client.post(
            UPLOAD, body=never(), token="alice", headers={"content-length": "1001"}
        )

    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")


async def test_an_upload_is_stopped_where_it_becomes_too_large(
    database: Database, tmp_path: Path
) -> None:
    given = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 1000

    async with open_media(database, tmp_path, max_upload_size=100_000) as world:
        async with aclosing(endless()) as parts:
            answer = await world.client.post(UPLOAD, body=parts, token="alice")

        assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
        assert given == 101
        assert world.files("temporary") == []
        assert world.files("content") == []


async def test_a_client_that_leaves_half_way_leaves_nothing(world: MediaWorld) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        raise ClientGone

    with pytest.raises(ConnectionError):
        await world.client.post(UPLOAD, body=half(), token="alice")

    assert world.files("temporary") == []


async def test_a_user_may_upload_so_much_in_a_time(database: Database, tmp_path: Path) -> None:
    limits = (UploadLimit(time_period=60_000, max_size=100),)
    async with open_media(database, tmp_path, media_upload_limits=limits) as world:
        world.tokens.user("bob")
        first = await post(world, b"x" * 90)
        second = await post(world, b"x" * 11)
        others = await post(world, b"x" * 11, token="bob")
        world.clock.advance(60_001)
        later = await post(world, b"x" * 11)

    assert [one.status for one in (first, others, later)] == [200, 200, 200]
    assert (second.status, second.errcode) == (403, "M_FORBIDDEN")


async def test_uploads_at_once_do_not_go_beyond_what_a_user_may(
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


async def test_addresses_announced_at_once_are_not_too_many(world: MediaWorld) -> None:
    statuses: list[int] = []

    async def announce_one() -> None:
        statuses.append((await world.client.post(CREATE, token="alice")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(announce_one)

    assert sorted(statuses) == [200] * 5 + [429] * 7


async def test_an_announced_address_is_filled_once(world: MediaWorld) -> None:
    answer = await world.client.post(CREATE, token="alice")
    address = answer.json["content_uri"].removeprefix("mxc://")

    first = await fill(world, address)
    second = await fill(world, address)
    got = await world.client.get(f"{DOWNLOAD}/{address}", token="alice")

    assert answer.json["unused_expires_at"] == world.clock.now_ms() + 86_400_000
    assert (first.status, first.json) == (200, {})
    assert (second.status, second.errcode) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    assert got.body == b"content"


async def test_an_address_is_filled_by_who_announced_it(world: MediaWorld) -> None:
    world.tokens.user("bob")
    address = await announce(world)

    other = await fill(world, address, token="bob")
    unknown = await fill(world, "test/neverAnnounced")
    foreign = await fill(world, "elsewhere.example/some")

    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert (foreign.status, foreign.errcode) == (404, "M_NOT_FOUND")


async def test_two_who_fill_an_address_at_once_do_not_both_succeed(world: MediaWorld) -> None:
    address = await announce(world)
    statuses: list[int] = []

    async def try_to(content: bytes) -> None:
        statuses.append((await fill(world, address, content)).status)

    async with trio.open_nursery() as nursery:
        for content in (b"one", b"two"):
            nursery.start_soon(try_to, content)

    assert sorted(statuses) == [200, 409]


async def test_an_address_expires(world: MediaWorld) -> None:
    address = await announce(world)
    world.clock.advance(86_400_001)

    late = await fill(world, address)
    got = await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=0", token="alice")

    assert (late.status, late.errcode) == (404, "M_NOT_FOUND")
    assert (got.status, got.errcode) == (404, "M_NOT_FOUND")


async def test_only_so_many_addresses_wait_for_their_content(world: MediaWorld) -> None:
    addresses = [await announce(world) for _ in range(5)]

    too_many = await world.client.post(CREATE, token="alice")
    await fill(world, addresses[0])
    again = await world.client.post(CREATE, token="alice")

    assert (too_many.status, too_many.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert too_many.json["retry_after_ms"] > 0
    assert again.status == 200


async def test_who_asks_too_early_is_told_so_after_the_time_they_gave(world: MediaWorld) -> None:
    address = await announce(world)

    answer = await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=10", token="alice")

    assert (answer.status, answer.errcode) == (504, "M_NOT_YET_UPLOADED")


async def test_who_waits_gets_the_content_when_it_comes(world: MediaWorld) -> None:
    address = await announce(world)
    answers: list[Answer] = []

    async def wait() -> None:
        answers.append(
            await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=60000", token="alice")
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await fill(world, address, b"late")

    assert (answers[0].status, answers[0].body) == (200, b"late")


async def test_who_waits_is_sent_away_when_the_server_ends(world: MediaWorld) -> None:
    address = await announce(world)
    answers: list[Answer] = []

    async def wait() -> None:
        answers.append(
            await world.client.get(f"{DOWNLOAD}/{address}?timeout_ms=60000", token="alice")
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        world.drain.begin()

    assert (answers[0].status, answers[0].errcode) == (504, "M_NOT_YET_UPLOADED")
