"""The main job with an unmodified client: two people meet in a room and talk."""

import asyncio

import nio
import pytest

from tests.support.nio_client import WanderingClient, done, registered, run_scenario
from tests.support.processes import Cluster

pytestmark = pytest.mark.process
MANY = 500


def bodies(events: list[nio.Event]) -> list[str]:
    """Give the texts of the messages among events."""
    return [event.body for event in events if isinstance(event, nio.RoomMessageText)]


async def say(client: WanderingClient, room_id: str, text: str) -> str:
    """Send a text message and give its ID."""
    content = {"msgtype": "m.text", "body": text}
    sent = await client.room_send(room_id, "m.room.message", content)
    event_id: str = done(sent, nio.RoomSendResponse).event_id
    return event_id


async def meet(cluster: Cluster, suffix: str) -> tuple[WanderingClient, WanderingClient, str]:
    """Have Alice make a room and Bob join it by her invitation."""
    alice = await registered(cluster.any_url, f"alice-{suffix}")
    bob = await registered(cluster.any_url, f"bob-{suffix}")
    made = await alice.room_create(name="Talk", invite=[bob.user_id])
    room_id = done(made, nio.RoomCreateResponse).room_id
    # Another process may answer than took the invitation: it may come a moment later.
    while room_id not in done(await bob.sync(timeout=1_000), nio.SyncResponse).rooms.invite:
        pass
    done(await bob.join(room_id), nio.JoinResponse)
    return alice, bob, room_id


async def sync_until(client: WanderingClient, room_id: str, text: str) -> nio.SyncResponse:
    """Sync until a message comes by."""
    while True:
        response = done(await client.sync(timeout=10_000), nio.SyncResponse)
        room = response.rooms.join.get(room_id)
        if room is not None and text in bodies(room.timeline.events):
            return response


def test_two_people_talk(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(cluster, "talk")
        done(await alice.sync(timeout=0), nio.SyncResponse)

        heard = asyncio.ensure_future(sync_until(bob, room_id, "hello Bob"))
        event_id = await say(alice, room_id, "hello Bob")
        response = await heard

        assert response.rooms.join[room_id].timeline.events[-1].event_id == event_id
        done(await bob.room_typing(room_id), nio.RoomTypingResponse)
        done(await bob.room_read_markers(room_id, event_id, event_id), nio.RoomReadMarkersResponse)
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}}
        done(await bob.room_send(room_id, "m.reaction", reaction), nio.RoomSendResponse)
        await say(bob, room_id, "hello Alice")
        seen = await sync_until(alice, room_id, "hello Alice")
        kinds = {type(event) for event in seen.rooms.join[room_id].ephemeral}
        assert kinds <= {nio.TypingNoticeEvent, nio.ReceiptEvent}
        done(await alice.room_redact(room_id, event_id), nio.RoomRedactResponse)
        await say(alice, room_id, "that is gone")
        await sync_until(bob, room_id, "that is gone")
        while True:
            found = done(await bob.room_get_event(room_id, event_id), nio.RoomGetEventResponse)
            if isinstance(found.event, nio.RedactedEvent):
                break
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


async def paged_back(client: WanderingClient, room_id: str) -> list[str]:
    """Read a room from its end, as the process that is asked first knows it."""
    token = ""
    paged: list[str] = []
    while True:
        answer = await client.room_messages(room_id, token, limit=50)
        page = done(answer, nio.RoomMessagesResponse)
        paged += bodies(page.chunk)
        if not page.end or not page.chunk:
            return paged
        token = page.end


def test_a_long_talk_is_paged_back_whole(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(cluster, "long")
        for first in range(0, MANY, 20):
            await asyncio.gather(
                *(say(alice, room_id, f"message {n}") for n in range(first, first + 20))
            )

        paged = await paged_back(bob, room_id)
        while len(paged) < MANY:
            paged = await paged_back(bob, room_id)

        assert len(paged) == len(set(paged)) == MANY
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


def test_a_restart_loses_nothing(cluster: Cluster) -> None:

    async def scenario() -> None:
        alice, bob, room_id = await meet(cluster, "restart")
        before = done(await bob.sync(timeout=0), nio.SyncResponse).next_batch
        await say(alice, room_id, "before")

        await asyncio.to_thread(cluster.stop)
        await asyncio.to_thread(cluster.start)

        await say(alice, room_id, "after")
        # Another process may answer this than took the message: it may come a moment later.
        heard: list[str] = []
        while "after" not in heard:
            response = done(await bob.sync(timeout=10_000, since=before), nio.SyncResponse)
            if room_id in response.rooms.join:
                heard += bodies(response.rooms.join[room_id].timeline.events)
            before = response.next_batch
        assert heard == ["before", "after"]
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)
