"""Concurrent uploads of one device through both owners, which PostgreSQL must serialise."""

import asyncio

import pytest
import trio

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.services.devices.key_objects import parse_one_time_keys
from hs.services.devices.one_time_key_storage import KeyUpload, store_keys
from hs.storage.database import Database, Tx
from hs.storage.devices import devices, key_uploads, one_time_keys
from tests.support.rooms import ALICE

pytestmark = pytest.mark.parametrize(
    "engine", [pytest.param("postgres", marks=pytest.mark.postgres)]
)
PHONE = (ALICE, "PHONE")


def upload_of(**keys: str) -> KeyUpload:
    named = {name.replace("__", ":"): value for name, value in keys.items()}
    return KeyUpload(UserID(ALICE), "PHONE", parse_one_time_keys(named), [])


async def log_in(tx: Tx) -> None:
    await devices.ensure(tx, *PHONE, None, 1)


async def upload_once(tx: Tx, upload: KeyUpload) -> None:
    device = await key_uploads.load(tx, *PHONE)
    assert device is not None
    await store_keys(tx, upload, device)


async def upload_while(
    tx: Tx, upload: KeyUpload, has_read: asyncio.Event, go: asyncio.Event
) -> None:
    """Upload keys, with a pause after reading the stored ones."""
    device = await key_uploads.load(tx, *PHONE)
    assert device is not None
    has_read.set()
    await go.wait()
    await store_keys(tx, upload, device)


async def claim(tx: Tx, algorithm: str) -> list[tuple[int, bytes]]:
    device = await key_uploads.load(tx, *PHONE)
    assert device is not None
    return await one_time_keys.claim_keys(tx, {device.inbox: algorithm})


async def claim_all(database: Database, algorithm: str) -> list[bytes]:
    """Claim all keys of an algorithm, and return them."""
    keys: list[bytes] = []
    while claimed := await database.write(claim, algorithm):
        keys += [key for _, key in claimed]
    return keys


async def upload_concurrently(database: Database, *uploads: KeyUpload) -> list[InvalidParam]:
    """Run two uploads that both read before either writes; return the rejections."""
    rejections: list[InvalidParam] = []
    ready = [asyncio.Event() for _ in uploads]

    async def run(
        upload: KeyUpload, has_read: asyncio.Event, other_has_read: asyncio.Event
    ) -> None:
        try:
            await database.write(upload_while, upload, has_read, other_has_read)
        except InvalidParam as error:
            rejections.append(error)

    async with trio.open_nursery() as nursery:
        for index, upload in enumerate(uploads):
            nursery.start_soon(run, upload, ready[index], ready[1 - index])
    return rejections


async def test_key_in_two_concurrent_uploads_is_stored_once(database: Database) -> None:
    await database.write(log_in)

    rejections = await upload_concurrently(
        database, upload_of(b__x="1", s__A="k"), upload_of(s__A="k")
    )

    assert rejections == []
    assert await claim_all(database, "s") == [b'{"s:A":"k"}']


async def test_one_of_two_different_keys_with_the_same_name_is_rejected(database: Database) -> None:
    await database.write(log_in)

    rejections = await upload_concurrently(
        database, upload_of(b__x="1", s__A="k"), upload_of(s__A="other")
    )

    assert [error.errcode for error in rejections] == ["M_INVALID_PARAM"]
    assert len(await claim_all(database, "s")) == 1


async def test_upload_that_read_before_other_changes_is_repeated(database: Database) -> None:
    await database.write(log_in)
    has_read, go = asyncio.Event(), asyncio.Event()

    async def read(tx: Tx) -> None:
        await has_read.wait()

    async def let_go(tx: Tx) -> None:
        go.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            database.write, upload_while, upload_of(s__A="1", s__B="2"), has_read, go
        )
        await database.read(read)
        await database.write(upload_once, upload_of(s__A="1"))
        await database.write(claim, "s")
        await database.write(upload_once, upload_of(s__C="3"))
        await database.read(let_go)

    # Key A was claimed and is stored again: claimed keys are not recorded.
    assert await claim_all(database, "s") == [b'{"s:C":"3"}', b'{"s:A":"1"}', b'{"s:B":"2"}']
