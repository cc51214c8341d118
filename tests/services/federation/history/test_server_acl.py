"""A server that a room's ACL excludes is refused by every endpoint that names the room."""

import re

import orjson

from hs.apis.web.auth import Auth
from hs.apis.web.route import Endpoint, collect
from hs.core.canonical_json import canonical_json
from hs.core.errors import RemoteFault
from hs.core.events import event_types
from hs.core.ids import ServerName, UserID
from hs.services.federation_client.client import segment, uri_of
from tests.services.federation.shared_rooms import join_through
from tests.support.composition import ComposedProcess
from tests.support.federation import open_servers

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BEA = UserID("@ann:far.example"), UserID("@bea:near.example")


def room_endpoints(process: ComposedProcess) -> list[Endpoint]:
    """Return all endpoints for other servers that name a room or an event."""
    declared = [each for part in process.services.parts for each in part.endpoints]
    return [
        endpoint
        for endpoint in collect(*declared)
        if endpoint.auth is Auth.FEDERATION and re.search("{(room_id|event_id)}", endpoint.pattern)
    ]


async def test_excluded_server_is_refused_by_every_endpoint_of_a_room() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        join = await join_through(far, near, room_id, BEA)
        content = {"allow": ["*"], "deny": [NEAR]}
        await far.world.set_state(room_id, ANN, event_types.SERVER_ACL, content)
        parameters = {"room_id": room_id, "event_id": join.event_id, "user_id": BEA, "txn_id": "1"}
        query: dict[str, str | int] = {
            "event_id": join.event_id,
            "v": join.event_id,
            "limit": 10,
            "ts": 0,
            "dir": "f",
            "ver": "11",
        }
        event = orjson.loads(join.canonical)
        body = {
            **event,
            "event": event,
            "room_version": "11",
            "invite_room_state": [],
            "earliest_events": [],
            "latest_events": [join.event_id],
        }

        endpoints = room_endpoints(far.process)
        served = []
        for endpoint in endpoints:
            path = re.sub(r"{(\w+)}", lambda name: segment(parameters[name[1]]), endpoint.pattern)
            content_bytes = None if endpoint.method == "GET" else canonical_json(body)
            try:
                uri = uri_of(path, query if endpoint.method == "GET" else None)
                await near.client.request(FAR, endpoint.method, uri, content_bytes)
            except RemoteFault as fault:
                errcode = None if fault.error is None else fault.error.errcode
                if errcode in ("M_FORBIDDEN", "M_NOT_FOUND"):
                    continue
            served.append(endpoint.pattern)

    assert len(endpoints) >= 8
    assert served == []
