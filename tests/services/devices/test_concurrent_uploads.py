"""Uploads of one device through both owners at once, which PostgreSQL must tell apart."""

import asyncio

import pytest
import trio

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.services.devices.key_objects import read_one_time_keys
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
    return KeyUpload(UserID(ALICE), "PHONE", read_one_time_keys(named), [])


async def log_in(tx: Tx) -> None:
    await devices.ensure(tx, *PHONE, None, 1)


async def upload_once(tx: Tx, upload: KeyUpload) -> None:
    known = await key_uploads.known(tx, *PHONE)
    assert known is not None
    await store_keys(tx, upload, known)


async def upload_while(
    tx: Tx, upload: KeyUpload, has_read: asyncio.Event, go: asyncio.Event
) -> None:
    """Upload, with a pause behind the reading."""
    known = await key_uploads.known(tx, *PHONE)
    assert known is not None
    has_read.set()
    await go.wait()
    await store_keys(tx, upload, known)


async def claim(tx: Tx, algorithm: str) -> list[tuple[int, bytes]]:
    known = await key_uploads.known(tx, *PHONE)
    assert known is not None
    return await one_time_keys.claim_any(tx, {known.inbox: algorithm})


async def given(database: Database, algorithm: str) -> list[bytes]:
    """Claim all keys."""
    found: list[bytes] = []
    while keys := await database.write(claim, algorithm):
        found += [key for _, key in keys]
    return found


async def at_once(database: Database, *uploads: KeyUpload) -> list[InvalidParam]:
    """Have both look first, and write then; give what was refused."""
    refused: list[InvalidParam] = []
    ready = [asyncio.Event() for _ in uploads]

    async def run(upload: KeyUpload, mine: asyncio.Event, others: asyncio.Event) -> None:
        try:
            await database.write(upload_while, upload, mine, others)
        except InvalidParam as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for place, upload in enumerate(uploads):
            nursery.start_soon(run, upload, ready[place], ready[1 - place])
    return refused


async def test_the_same_key_is_here_once_whatever_comes_with_it(database: Database) -> None:
    await database.write(log_in)

    refused = await at_once(database, upload_of(b__x="1", s__A="k"), upload_of(s__A="k"))

    assert refused == []
    assert await given(database, "s") == [b'{"s:A":"k"}']


async def test_of_two_keys_of_one_name_one_is_refused(database: Database) -> None:
    await database.write(log_in)

    refused = await at_once(database, upload_of(b__x="1", s__A="k"), upload_of(s__A="other"))

    assert [error.errcode for error in refused] == ["M_INVALID_PARAM"]
    assert len(await given(database, "s")) == 1


async def test_who_has_looked_before_all_others_looks_again(database: Database) -> None:
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

    # A was given out before, and is uploaded anew as nobody keeps a list of what was.
    assert await given(database, "s") == [b'{"s:C":"3"}', b'{"s:A":"1"}', b'{"s:B":"2"}']
