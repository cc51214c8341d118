"""Two unmodified matrix-nio clients meet in a room and exchange messages."""

import asyncio

import nio
import pytest

from tests.support.servers.nio_client import AnyProcessClient, done, registered, run_scenario
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process
MESSAGES = 500


def bodies(events: list[nio.Event]) -> list[str]:
    """Return the texts of the text messages among events."""
    return [event.body for event in events if isinstance(event, nio.RoomMessageText)]


async def say(client: AnyProcessClient, room_id: str, text: str) -> str:
    """Send a text message and return its event ID."""
    content = {"msgtype": "m.text", "body": text}
    sent = await client.room_send(room_id, "m.room.message", content)
    event_id: str = done(sent, nio.RoomSendResponse).event_id
    return event_id


async def register_and_join(
    cluster: Cluster, suffix: str
) -> tuple[AnyProcessClient, AnyProcessClient, str]:
    """Register Alice and Bob; Alice creates a room and invites Bob, who joins it."""
    alice = await registered(cluster.any_url, f"alice-{suffix}")
    bob = await registered(cluster.any_url, f"bob-{suffix}")
    created = await alice.room_create(name="Talk", invite=[bob.user_id])
    room_id = done(created, nio.RoomCreateResponse).room_id
    # The process that answers /sync may receive the invite a moment later.
    while room_id not in done(await bob.sync(timeout=1_000), nio.SyncResponse).rooms.invite:
        pass
    done(await bob.join(room_id), nio.JoinResponse)
    return alice, bob, room_id


async def sync_until(client: AnyProcessClient, room_id: str, text: str) -> nio.SyncResponse:
    """Sync until a message with this text is in the timeline; return that response."""
    while True:
        response = done(await client.sync(timeout=10_000), nio.SyncResponse)
        room = response.rooms.join.get(room_id)
        if room is not None and text in bodies(room.timeline.events):
            return response


def test_two_clients_exchange_messages(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await register_and_join(cluster, "talk")
        done(await alice.sync(timeout=0), nio.SyncResponse)

        syncing = asyncio.ensure_future(sync_until(bob, room_id, "hello Bob"))
        event_id = await say(alice, room_id, "hello Bob")
        response = await syncing

        assert response.rooms.join[room_id].timeline.events[-1].event_id == event_id
        done(await bob.room_typing(room_id), nio.RoomTypingResponse)
        done(await bob.room_read_markers(room_id, event_id, event_id), nio.RoomReadMarkersResponse)
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}}
        done(await bob.room_send(room_id, "m.reaction", reaction), nio.RoomSendResponse)
        await say(bob, room_id, "hello Alice")
        response_of_alice = await sync_until(alice, room_id, "hello Alice")
        ephemeral_types = {type(event) for event in response_of_alice.rooms.join[room_id].ephemeral}
        assert ephemeral_types <= {nio.TypingNoticeEvent, nio.ReceiptEvent}
        done(await alice.room_redact(room_id, event_id), nio.RoomRedactResponse)
        await say(alice, room_id, "that is gone")
        await sync_until(bob, room_id, "that is gone")
        while True:
            fetched = done(await bob.room_get_event(room_id, event_id), nio.RoomGetEventResponse)
            if isinstance(fetched.event, nio.RedactedEvent):
                break
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


async def page_back(client: AnyProcessClient, room_id: str) -> list[str]:
    """Return the texts in a room, newest first, as far as the first process knows them."""
    token = ""
    texts: list[str] = []
    while True:
        response = await client.room_messages(room_id, token, limit=50)
        page = done(response, nio.RoomMessagesResponse)
        texts += bodies(page.chunk)
        if not page.end or not page.chunk:
            return texts
        token = page.end


def test_long_history_is_paged_back_completely(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await register_and_join(cluster, "long")
        for first in range(0, MESSAGES, 20):
            await asyncio.gather(
                *(say(alice, room_id, f"message {n}") for n in range(first, first + 20))
            )

        texts = await page_back(bob, room_id)
        while len(texts) < MESSAGES:
            texts = await page_back(bob, room_id)

        assert len(texts) == len(set(texts)) == MESSAGES
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


def test_no_message_is_lost_by_restart(cluster: Cluster) -> None:

    async def scenario() -> None:
        alice, bob, room_id = await register_and_join(cluster, "restart")
        since = done(await bob.sync(timeout=0), nio.SyncResponse).next_batch
        await say(alice, room_id, "before")

        await asyncio.to_thread(cluster.stop)
        await asyncio.to_thread(cluster.start)

        await say(alice, room_id, "after")
        # The process that answers /sync may receive the message a moment later.
        texts: list[str] = []
        while "after" not in texts:
            response = done(await bob.sync(timeout=10_000, since=since), nio.SyncResponse)
            if room_id in response.rooms.join:
                texts += bodies(response.rooms.join[room_id].timeline.events)
            since = response.next_batch
        assert texts == ["before", "after"]
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)
