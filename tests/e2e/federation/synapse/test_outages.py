"""A server that is stopped for a while receives afterwards what was sent meanwhile."""

import pytest
import trio

from tests.e2e.federation.synapse.conftest import Sides
from tests.support.servers.matrix_user import WAIT_S, MatrixUser, path_of
from tests.support.servers.mixed_federation import MixedFederation

pytestmark = [pytest.mark.process, pytest.mark.synapse]

SENT = 70  # more than the PDUs of a transaction


async def test_what_was_sent_during_an_outage_arrives(mixed: MixedFederation, sides: Sides) -> None:
    """The far server is stopped."""
    near, far = await sides.sign_up()
    stopped = mixed.cluster if sides.far is mixed.hs else mixed.synapse_server
    async with near, far:
        rooms = [await near.create_room(preset="public_chat") for _ in range(2)]
        for room_id in rooms:
            await far.join(room_id, near.server)
            await near.wait_for_member(room_id, far.user_id, "join")

        await trio.to_thread.run_sync(stopped.stop)
        try:
            sent = [await near.say(rooms[0], f"message {number}") for number in range(SENT)]
            last = await near.say(rooms[1], "only this")
            target = path_of("sendToDevice", "test.message", "during-the-outage")
            messages = {far.user_id: {far.device_id: {"body": "to device"}}}
            await near.call("PUT", target, {"messages": messages})
            await near.call(
                "PUT", path_of("profile", near.user_id, "displayname"), {"displayname": "Renamed"}
            )
        finally:
            await trio.to_thread.run_sync(stopped.start)

        await far.wait_for_event(rooms[1], last)
        await far.wait_until(lambda view: view.to_device)
        for room_id in rooms:
            await far.wait_for_profile(room_id, near.user_id, displayname="Renamed")
        await history_has(far, rooms[0], sent)
        answer = await far.say(rooms[0], "back again")
        await near.wait_for_event(rooms[0], answer)

        assert await near.state(rooms[0]) == await far.state(rooms[0])


async def history_has(user: MatrixUser, room_id: str, event_ids: list[str]) -> None:
    """Wait until a user can read all events by scrolling back."""
    with trio.fail_after(WAIT_S):
        while True:
            found = [event["event_id"] for event in await user.history(room_id)]
            assert len(found) == len(set(found))
            if set(event_ids) <= set(found):
                return
            await user.sync(timeout_ms=500)
