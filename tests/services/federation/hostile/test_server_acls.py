"""What a server that a room's ACL excludes is told, by every endpoint that concerns the room."""

import re
from typing import Any

import orjson
import pytest

from hs.apis.web.auth import Auth
from hs.apis.web.route import Endpoint, collect
from hs.core.canonical_json import canonical_json
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID
from hs.services.federation_client.client import segment, uri_of
from tests.services.federation.hostile.crafted_events import changed_event
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, join, register
from tests.support.federation import FederatedServer, open_servers

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
EXCLUDED = "access control list"

# Every endpoint with a room or an event in its path, and what is sent to it.
TABLE: dict[str, str] = {
    f"GET {V1}/event/{{event_id}}": "",
    f"GET {V1}/state/{{room_id}}": "event_id",
    f"GET {V1}/state_ids/{{room_id}}": "event_id",
    f"GET {V1}/event_auth/{{room_id}}/{{event_id}}": "",
    f"GET {V1}/backfill/{{room_id}}": "v limit",
    f"POST {V1}/get_missing_events/{{room_id}}": "missing",
    f"GET {V1}/timestamp_to_event/{{room_id}}": "ts dir",
    f"GET {V1}/hierarchy/{{room_id}}": "",
    "GET /_matrix/federation/unstable/rooms/{room_id}/complexity": "",
    f"GET {V1}/make_join/{{room_id}}/{{user_id}}": "ver",
    f"GET {V1}/make_leave/{{room_id}}/{{user_id}}": "",
    f"GET {V1}/make_knock/{{room_id}}/{{user_id}}": "ver",
    f"PUT {V1}/send_join/{{room_id}}/{{event_id}}": "member",
    f"PUT {V2}/send_join/{{room_id}}/{{event_id}}": "member",
    f"PUT {V1}/send_leave/{{room_id}}/{{event_id}}": "member",
    f"PUT {V2}/send_leave/{{room_id}}/{{event_id}}": "member",
    f"PUT {V1}/send_knock/{{room_id}}/{{event_id}}": "member",
    f"PUT {V1}/invite/{{room_id}}/{{event_id}}": "member",
    f"PUT {V2}/invite/{{room_id}}/{{event_id}}": "invite",
    f"PUT {V1}/exchange_third_party_invite/{{room_id}}": "member",
}
# The rooms and events that these name are in their bodies, or they name none.
HIDDEN = {f"GET {V1}/hierarchy/{{room_id}}"}  # a room that may not be seen does not exist


def endpoints_of_rooms(server: FederatedServer) -> set[str]:
    """Return the declared endpoints that name a room or an event in their path."""
    declared: list[Endpoint] = list(
        collect(*[each for part in server.process.services.parts for each in part.endpoints])
    )
    return {
        f"{endpoint.method} {endpoint.pattern}"
        for endpoint in declared
        if endpoint.auth is Auth.FEDERATION and re.search("{(room_id|event_id)}", endpoint.pattern)
    }


def query_of(names: str, event: Event) -> dict[str, str | int]:
    values: dict[str, str | int] = {
        "event_id": event.event_id,
        "v": event.event_id,
        "limit": 10,
        "ts": 0,
        "dir": "f",
        "ver": event.rules.identifier,
    }
    return {name: values[name] for name in names.split() if name in values}


def body_of(names: str, event: Event) -> Any:
    pdu = orjson.loads(event.canonical)
    bodies = {
        "missing": {"earliest_events": [], "latest_events": [event.event_id]},
        "member": pdu,
        "invite": {
            "event": pdu,
            "room_version": event.rules.identifier,
            "invite_room_state": [],
        },
    }
    return bodies.get(names)


async def ask(near: FederatedServer, line: str, event: Event, room_id: RoomID) -> tuple[int, Any]:
    """Send the request of a line of the table; return status and decoded response."""
    method, pattern = line.split(" ")
    values = {"room_id": room_id, "event_id": event.event_id, "user_id": BEN}
    path = re.sub(r"{(\w+)}", lambda name: segment(values[name[1]]), pattern)
    uri = uri_of(path, query_of(TABLE[line], event))
    body = body_of(TABLE[line], event)
    response = await near.client.exchange(
        FAR, method, uri, None if body is None else canonical_json(body)
    )
    return response.status, orjson.loads(response.body)


async def test_table_has_every_endpoint() -> None:
    async with open_servers(FAR) as (far,):
        assert endpoints_of_rooms(far) == set(TABLE)


@pytest.mark.parametrize("line", TABLE)
async def test_excluded_server_is_refused(line: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        stored = await far.world.states.current_event(room_id, event_types.MEMBER, BEN)
        assert stored is not None
        event = stored.event
        if "invite/" in line and "third" not in line:
            await register(far, ANN)
            content = {"membership": "invite"}
            event = changed_event(event, NEAR, content=content, state_key=ANN)
        before = await ask(near, line, event, room_id)
        acl = {"allow": ["*"], "deny": [NEAR]}
        await far.world.set_state(room_id, ANN, event_types.SERVER_ACL, acl)

        status, answer = await ask(near, line, event, room_id)

        assert EXCLUDED not in str(before), before
        if line in HIDDEN:
            assert (status, answer["errcode"]) == (404, "M_NOT_FOUND")
        else:
            assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")
            assert EXCLUDED in answer["error"]


async def test_transactions_of_an_excluded_server_change_nothing() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        sent = await near.world.send(room_id, BEN)
        content = {"allow": ["*"], "deny": [NEAR]}
        await far.world.set_state(room_id, ANN, event_types.SERVER_ACL, content)
        stored = await near.world.events.get_one(sent.event_id)
        assert stored is not None
        receipt = {"event_ids": [sent.event_id], "data": {"ts": 1}}
        edus = [
            {
                "edu_type": "m.typing",
                "content": {"room_id": room_id, "user_id": BEN, "typing": True},
            },
            {"edu_type": "m.receipt", "content": {room_id: {"m.read": {BEN: receipt}}}},
        ]
        body = canonical_json({"pdus": [stored.event.pdu], "edus": edus})

        answer = await near.client.request(FAR, "PUT", f"{V1}/send/1", body)

        assert EXCLUDED in answer["pdus"][sent.event_id]["error"]
        assert await far.world.events.get_one(sent.event_id) is None
        assert far.process.services.ephemeral.typing_users.typing_users(room_id) == ()
