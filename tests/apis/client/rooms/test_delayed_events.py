"""Delayed events over HTTP."""

from typing import Any

import pytest

from hs.storage.database import Database
from tests.support.room_actions import DELAYED_EVENTS, open_actions
from tests.support.rooms import ALICE

TEXT = {"msgtype": "m.text", "body": "later"}
STABLE = "/_matrix/client/v1/delayed_events"
UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140"
ROOMS = "/_matrix/client/v3/rooms"
MAX_DELAY_MS = 24 * 3600 * 1000


@pytest.mark.parametrize("prefix", [STABLE, f"{UNSTABLE}/delayed_events"])
async def test_unknown_action_is_not_found(database: Database, prefix: str) -> None:
    async with open_actions(database, DELAYED_EVENTS) as acts:
        client, room_id = acts.client(), await acts.world.create_room(ALICE)
        path = f"{ROOMS}/{room_id}/delayed_event/m.room.message/t"
        body = {"delay_ms": 60_000, "content": TEXT}
        delay_id = (await client.put(path, body, token="alice")).json["delay_id"]

        unknown = await client.post(f"{prefix}/{delay_id}/explode", {}, token="alice")
        known = await client.post(f"{prefix}/{delay_id}/restart", {}, token="alice")

        assert (unknown.status, unknown.errcode) == (404, "M_UNRECOGNIZED")
        assert known.status == 200


@pytest.mark.parametrize("target", ["send/m.room.message/t", "state/org.example"])
async def test_too_long_delay_in_the_query_is_refused_so_that_element_call_shortens_it(
    database: Database, target: str
) -> None:
    async with open_actions(database, DELAYED_EVENTS) as acts:
        room_id = await acts.world.create_room(ALICE)
        path = f"{ROOMS}/{room_id}/{target}?org.matrix.msc4140.delay={MAX_DELAY_MS + 1}"

        response = await acts.client().put(path, TEXT, token="alice")

        assert (response.status, response.errcode) == (400, "M_UNKNOWN")
        assert _limits(response.json) == ("M_MAX_DELAY_EXCEEDED", MAX_DELAY_MS)


async def test_too_long_delay_in_the_body_is_forbidden(database: Database) -> None:
    async with open_actions(database, DELAYED_EVENTS) as acts:
        room_id = await acts.world.create_room(ALICE)
        path = f"{ROOMS}/{room_id}/delayed_event/m.room.message/t"
        body = {"delay_ms": MAX_DELAY_MS + 1, "content": TEXT}

        response = await acts.client().put(path, body, token="alice")

        assert (response.status, response.errcode) == (403, "M_FORBIDDEN")
        assert _limits(response.json) == ("M_MAX_DELAY_EXCEEDED", MAX_DELAY_MS)


def _limits(body: dict[str, Any]) -> tuple[Any, Any]:
    return body["org.matrix.msc4140.errcode"], body["org.matrix.msc4140.max_delay"]
