"""PDUs are stored compressed and come back byte by byte; rows from before that are read."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.storage.database import Database, Tx
from hs.storage.rooms import stored_pdus
from hs.storage.rooms.stored_pdus import compress_pdu, expand_pdu
from tests.support.rooms import ALICE, open_world

STORED = "SELECT pdu FROM events WHERE event_id = $1"
STORE = "UPDATE events SET pdu = $2 WHERE event_id = $1"
# The dictionary is part of what is stored: whoever changes it loses all events.
DICTIONARY = 4174916475


@given(st.one_of(st.binary(max_size=70_000), st.text().map(str.encode)))
def test_every_pdu_is_expanded_to_what_was_compressed(content: bytes) -> None:
    pdu = b'{"content":"' + content + b'"}'

    stored = compress_pdu(pdu)

    assert expand_pdu(stored) == pdu
    assert len(stored) <= len(pdu)


@pytest.mark.parametrize(("digests", "block_type"), [(4, 1), (40, 2)])
def test_only_small_pdus_are_stored_with_fixed_codes(digests: int, block_type: int) -> None:
    words = [sha256(bytes([number])).hexdigest() for number in range(digests)]
    pdu = b'{"content":{"body":"%b"}}' % "".join(words).encode()

    stored = compress_pdu(pdu)

    # A deflate stream begins with the bit of the last block and the two bits of the block's type.
    assert stored[1] >> 1 & 0b11 == block_type
    assert expand_pdu(stored) == pdu


def test_dictionary_is_the_one_that_pdus_are_stored_with() -> None:
    assert stored_pdus.dictionary_checksum() == DICTIONARY


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown byte"):
        expand_pdu(b"\x02stored")


async def test_event_takes_less_than_its_pdu_and_old_rows_are_read(database: Database) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        sent = await world.send(room_id, ALICE, "a message of a few words")
        event = await world.events.get_one(sent.event_id)
        assert event is not None

        stored = await database.read(_fetch, sent.event_id)
        await database.write(_store, sent.event_id, event.event.canonical)

    async with open_world(database) as world:
        again = await world.events.get_one(sent.event_id)

    assert len(stored) < 0.7 * len(event.event.canonical)
    assert expand_pdu(stored) == event.event.canonical
    assert again is not None
    assert again.event.canonical == event.event.canonical


async def _fetch(tx: Tx, event_id: str) -> bytes:
    return bytes(await tx.fetchval(STORED, event_id))


async def _store(tx: Tx, event_id: str, pdu: bytes) -> None:
    await tx.execute(STORE, event_id, pdu)
