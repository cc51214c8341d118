"""What a server in a room is sent of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest

from hs.core.canonical_json import canonical_json
from hs.core.errors import RemoteFault
from hs.core.events import event_types
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.versions import room_version
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.access.streamed_events import EVENTS_IN_PART, StreamedEvents
from hs.services.federation.history.served_state import ServedState
from hs.services.federation.history.server_visibility import ServerVisibility
from hs.services.federation_client.client import segment, uri_of
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.server_acls import ServerAcls
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import FederatedServer, open_servers
from tests.support.rooms import DEFAULT_VERSION

NEAR, FAR, THIRD = (ServerName(f"{name}.example") for name in ("near", "far", "third"))
ANN, BEA = UserID("@ann:far.example"), UserID("@bea:near.example")
V1 = "/_matrix/federation/v1"


@attrs.define(eq=False)
class SharedRoom:
    """A room of `far` that `near` has joined."""

    near: FederatedServer
    far: FederatedServer
    room_id: RoomID
    join: EventID

    async def ask(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """Send a GET request from near to far."""
        return await self.near.client.get(FAR, f"{V1}/{path}", query)

    async def say(self, *bodies: str) -> list[EventID]:
        """Let Ann send messages."""
        return [(await self.far.world.send(self.room_id, ANN, body)).event_id for body in bodies]


@asynccontextmanager
async def open_shared(
    visibility: str | None = None, before: Sequence[str] = (), version: str = DEFAULT_VERSION
) -> AsyncIterator[SharedRoom]:
    """Create a room with messages, which near joins afterwards."""
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN, version=version)
        if visibility is not None:
            content = {"history_visibility": visibility}
            await far.world.set_state(room_id, ANN, event_types.HISTORY_VISIBILITY, content)
        for body in before:
            await far.world.send(room_id, ANN, body)
        join = await join_through(far, near, room_id, BEA)
        yield SharedRoom(near, far, room_id, join.event_id)


def ids_of(pdus: Sequence[Any], version: str = DEFAULT_VERSION) -> list[EventID]:
    """Return the event IDs of PDUs."""
    return [parse_pdu(pdu, room_version(version)).event_id for pdu in pdus]


def bodies_of(pdus: Sequence[Any]) -> list[str | None]:
    """Return the texts of the messages among PDUs; None of those that are redacted."""
    return [pdu["content"].get("body") for pdu in pdus if pdu["type"] == "m.room.message"]


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_event_is_returned_as_it_was_signed(version: str) -> None:
    async with open_shared(version=version) as room:
        (event_id,) = await room.say("hello")

        answer = await room.ask(f"event/{segment(event_id)}")
        stored = await room.far.world.events.get_one(event_id)

    assert stored is not None
    assert answer["origin"] == FAR
    assert answer["pdus"] == [orjson.loads(stored.event.canonical)]


async def test_backfill_returns_the_given_events_and_those_before() -> None:
    async with open_shared(before=[str(number) for number in range(30)]) as room:
        path = f"backfill/{segment(room.room_id)}"
        answer = await room.ask(path, {"v": [room.join], "limit": 10})
        with pytest.raises(RemoteFault, match="M_INVALID_PARAM"):
            await room.ask(path, {"v": [room.join], "limit": 0})

    assert ids_of(answer["pdus"])[0] == room.join
    assert bodies_of(answer["pdus"]) == [str(number) for number in range(29, 20, -1)]


async def test_backfill_never_returns_more_than_a_hundred() -> None:
    async with open_shared(before=[str(number) for number in range(120)]) as room:
        path = f"backfill/{segment(room.room_id)}"
        answer = await room.ask(path, {"v": [room.join], "limit": 1000})

    assert len(answer["pdus"]) == 100


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [("world_readable", True), ("shared", True), ("invited", False), ("joined", False)],
)
async def test_messages_before_the_join_are_redacted_unless_shared(
    visibility: str, seen: bool
) -> None:
    async with open_shared(visibility, before=["early"]) as room:
        await room.say("late")
        extremity = (await room.say("latest"))[0]

        path = f"backfill/{segment(room.room_id)}"
        answer = await room.ask(path, {"v": [extremity], "limit": 10})

    assert bodies_of(answer["pdus"]) == ["latest", "late", "early" if seen else None]


async def test_invited_server_sees_messages_since_the_invite() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        content = {"history_visibility": "invited"}
        await far.world.set_state(room_id, ANN, event_types.HISTORY_VISIBILITY, content)
        await far.world.send(room_id, ANN, "early")
        await far.world.set_membership(room_id, ANN, BEA, "invite")
        await far.world.send(room_id, ANN, "late")
        join = await join_through(far, near, room_id, BEA)

        uri = f"{V1}/backfill/{segment(room_id)}"
        answer = await near.client.get(FAR, uri, {"v": [join.event_id], "limit": 10})

    assert bodies_of(answer["pdus"]) == ["late", None]


async def test_redacted_events_are_sent_redacted() -> None:
    async with open_shared() as room:
        (event_id,) = await room.say("secret")
        await room.far.world.redact(room.room_id, ANN, event_id)

        answer = await room.ask(f"event/{segment(event_id)}")

    assert bodies_of(answer["pdus"]) == [None]
    assert ids_of(answer["pdus"]) == [event_id]


async def missing(room: SharedRoom, **fields: Any) -> list[Any]:
    """Ask for missing events."""
    uri = uri_of(f"{V1}/get_missing_events/{segment(room.room_id)}")
    answer = await room.near.client.request(FAR, "POST", uri, canonical_json(fields))
    events: list[Any] = answer["events"]
    return events


async def test_missing_events_lie_between_the_earliest_and_the_latest() -> None:
    async with open_shared() as room:
        first, *_, last = await room.say(*"abcdefghijklmnopqrst")
        await room.say("later")

        between = await missing(room, earliest_events=[first], latest_events=[last], limit=30)
        limited = await missing(room, earliest_events=[first], latest_events=[last])
        deep = await missing(room, latest_events=[last], limit=30, min_depth=between[-2]["depth"])
        many = await missing(room, latest_events=[last], limit=1000)
        nothing = await missing(room, latest_events=[last], limit=0)
        unspecified = await missing(room)

    assert bodies_of(between) == list("bcdefghijklmnopqrs")
    assert bodies_of(limited) == list("jklmnopqrs")
    assert bodies_of(deep) == ["r", "s"]
    assert len(many) <= 50
    assert nothing == unspecified == []


async def test_state_is_that_before_the_event() -> None:
    async with open_shared() as room:
        await room.far.world.set_state(room.room_id, ANN, "m.room.topic", {"topic": "old"})
        topic = await room.far.world.set_state(room.room_id, ANN, "m.room.topic", {"topic": "new"})

        query = {"event_id": topic.event_id}
        state = await room.ask(f"state/{segment(room.room_id)}", query)
        ids = await room.ask(f"state_ids/{segment(room.room_id)}", query)
        chain = await room.ask(f"event_auth/{segment(room.room_id)}/{segment(topic.event_id)}")

    topics = [pdu["content"] for pdu in state["pdus"] if pdu["type"] == "m.room.topic"]
    assert topics == [{"topic": "old"}]
    assert sorted(ids["pdu_ids"]) == sorted(ids_of(state["pdus"]))
    assert sorted(ids["auth_chain_ids"]) == sorted(ids_of(state["auth_chain"]))
    types = {pdu["type"] for pdu in chain["auth_chain"]}
    assert types == {"m.room.create", "m.room.member", "m.room.power_levels"}


async def test_state_at_an_invisible_event_is_forbidden() -> None:
    async with open_shared("joined", before=["early"]) as room:
        history = await room.ask(
            f"backfill/{segment(room.room_id)}", {"v": [room.join], "limit": 2}
        )
        early = ids_of(history["pdus"])[1]

        with pytest.raises(RemoteFault, match="M_FORBIDDEN"):
            await room.ask(f"state_ids/{segment(room.room_id)}", {"event_id": early})
        await room.ask(f"state_ids/{segment(room.room_id)}", {"event_id": room.join})


async def test_removed_server_gets_what_precedes_its_removal_and_no_more() -> None:
    async with open_shared() as room:
        first, _ = await room.say("first", "second")
        removal = await room.far.world.set_membership(room.room_id, ANN, BEA, "ban")
        (later,) = await room.say("later")
        state_path = f"state_ids/{segment(room.room_id)}"

        before = await missing(
            room, earliest_events=[first], latest_events=[removal.event_id], limit=9
        )
        around = await missing(room, earliest_events=[first], latest_events=[later], limit=9)
        single = await room.ask(f"event/{segment(first)}")
        state = await room.ask(state_path, {"event_id": removal.event_id})
        for path, query in (
            (f"event/{segment(later)}", None),
            (state_path, {"event_id": later}),
            (f"event_auth/{segment(room.room_id)}/{segment(later)}", None),
        ):
            with pytest.raises(RemoteFault, match="M_FORBIDDEN"):
                await room.ask(path, query)

    assert bodies_of(before) == ["second"]
    assert ids_of(around)[-1] == removal.event_id
    assert bodies_of(around) == ["second"]
    assert bodies_of(single["pdus"]) == ["first"]
    assert room.join in state["pdu_ids"]


async def test_removed_server_gets_the_state_that_it_left() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        topics = [
            (await far.world.set_state(room_id, ANN, "m.room.topic", {"topic": text})).event_id
            for text in ("old", "new")
        ]
        join = await join_through(far, near, room_id, BEA)
        room = SharedRoom(near, far, room_id, join.event_id)
        await far.world.set_membership(room_id, ANN, BEA, "ban")

        (new,) = (await room.ask(f"event/{segment(topics[1])}"))["pdus"]
        with pytest.raises(RemoteFault, match="M_FORBIDDEN"):
            await room.ask(f"event/{segment(topics[0])}")

    assert new["content"] == {"topic": "new"}


async def test_server_that_was_never_in_the_room_gets_nothing() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        invite = await far.world.set_membership(room_id, ANN, BEA, "invite")

        with pytest.raises(RemoteFault, match="M_FORBIDDEN"):
            await near.client.get(FAR, f"{V1}/event/{segment(invite.event_id)}")


async def test_server_whose_users_have_left_serves_its_last_events() -> None:
    async with open_shared() as room:
        (last,) = await room.say("last")
        departure = await room.far.world.set_membership(room.room_id, ANN, ANN, "leave")

        found = await missing(room, earliest_events=[room.join], latest_events=[departure.event_id])
        state = await room.ask(f"state_ids/{segment(room.room_id)}", {"event_id": last})

    assert bodies_of(found) == ["last"]
    assert room.join in state["pdu_ids"]


async def test_closest_event_to_a_time_is_found() -> None:
    async with open_shared() as room:
        room.far.world.clock.advance(1000)
        (event_id,) = await room.say("hello")
        ts = room.far.world.clock.now_ms()

        path = f"timestamp_to_event/{segment(room.room_id)}"
        found = await room.ask(path, {"ts": ts - 500, "dir": "f"})
        with pytest.raises(RemoteFault, match="M_NOT_FOUND"):
            await room.ask(path, {"ts": ts + 500, "dir": "f"})

    assert found == {"event_id": event_id, "origin_server_ts": ts}


async def test_unknown_events_and_queries_are_not_found() -> None:
    async with open_shared() as room:
        await room.say("hello")
        for path, query, errcode in (
            (f"event/{segment('$unknown')}", None, "M_NOT_FOUND"),
            (f"state_ids/{segment(room.room_id)}", {"event_id": "$unknown"}, "M_NOT_FOUND"),
            (f"event_auth/{segment(room.room_id)}/$unknown", None, "M_NOT_FOUND"),
            ("query/weather", None, "M_UNRECOGNIZED"),
        ):
            with pytest.raises(RemoteFault) as caught:
                await room.ask(path, query)
            assert caught.value.error is not None
            assert (caught.value.error.errcode, caught.value.error.status) == (errcode, 404)


async def test_state_of_a_large_room_is_sent_in_parts() -> None:
    async with open_shared() as room:
        drafts = [
            Draft("org.example.entry", ANN, {"number": number}, str(number))
            for number in range(2 * EVENTS_IN_PART)
        ]
        await room.far.world.append(room.room_id, *drafts)
        (event_id,) = await room.say("hello")

        parts = [part async for part in await state_parts(room, event_id)]

    state = orjson.loads(b"".join(parts))
    numbers = {pdu["content"].get("number") for pdu in state["pdus"]} - {None}
    assert numbers == set(range(2 * EVENTS_IN_PART))
    assert state["auth_chain"]
    assert len(parts) > 5
    assert max(map(len, parts)) < EVENTS_IN_PART * 1000


async def state_parts(room: SharedRoom, event_id: EventID) -> AsyncIterator[bytes]:
    """Return the state before an event as far sends it."""
    rooms, services = room.far.process.services.core.rooms, room.far.process.services
    access = ServerAccess(FAR, ServerAcls(rooms.states), rooms.servers)
    erased = services.core.accounts.erased
    visibility = ServerVisibility(room.far.world.database, rooms.events, erased)
    served = ServedState(
        events=rooms.events,
        states=rooms.states,
        graph=rooms.graph,
        access=access,
        visibility=visibility,
        streamed=StreamedEvents(rooms.events),
    )
    return await served.state(NEAR, room.room_id, event_id)
