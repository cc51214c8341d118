"""The end of a run: all faults are healed, and the servers settle.

Honest servers do not pass on events of others, so two of them may differ for good in what a
malicious server has sent to one of them only, until an event cites it. So at the end a user of each
server sends a message, one after the other: each cites all forward extremities of its server.
"""

from typing import Final

import attrs
import trio

from hs.core.ids import EventID, RoomID, UserID, server_of
from tests.simulation.clients import Clients, SharedRoom
from tests.simulation.network import SimulatedNetwork
from tests.simulation.rows import read_extremities, read_state, read_statuses
from tests.simulation.servers import SimulatedServer

LOOK_EVERY_S: Final = 5.0
SETTLE_S: Final = 8 * 3600.0
QUIET_LOOKS: Final = 2
MAX_ROUNDS: Final = 4


@attrs.frozen
class FinalMessages:
    """The last message in each room, which every server in it must have got."""

    events: dict[RoomID, EventID]


async def settle(network: SimulatedNetwork, clients: Clients) -> FinalMessages:
    """Heal all faults, and wait until all servers have told each other everything."""
    network.trace.note("settling")
    network.heal()
    for server in clients.servers.values():
        await server.start()
    await wait_until_quiet(network, clients)
    for room in clients.rooms:
        await _permit_messages(clients, room)
        # What the messages make known may bring a join back that was lost.
        for _ in range(MAX_ROUNDS):
            await _join_again(clients, room)
            await wait_until_quiet(network, clients)
            await _speak_in_turn(network, clients, room)
            if not await _lost_joins(clients, room):
                break
    last = {each.room_id: each.event_id for each in clients.acknowledged}
    return FinalMessages(last)


async def _speak_in_turn(network: SimulatedNetwork, clients: Clients, room: SharedRoom) -> None:
    for server in [*clients.servers.values(), clients.servers[server_of(room.founder)]]:
        user_id = await _speaker(clients, server, room)
        if user_id is None:
            continue
        for _ in range(MAX_ROUNDS):
            await clients.send(user_id, room)
            await wait_until_quiet(network, clients)
            # An event cites some of many extremities only.
            if len(await read_extremities(server.store, room.room_id)) == 1:
                break


async def _speaker(clients: Clients, server: SimulatedServer, room: SharedRoom) -> UserID | None:
    """Return a user of a server who is in a room as it sees it; the founder if possible.

    Of the others, one whom the founder's server sees in the room: it would soft-fail the messages
    of a user whose join it has soft-failed, and so not cite what they cite.
    """
    states = [
        await read_state(store, room.room_id)
        for store in (server.store, clients.servers[server_of(room.founder)].store)
    ]
    joined = [user for user in server.users if states[0].membership(user) == "join"]
    joined.sort(key=lambda user: (user != room.founder, states[1].membership(user) != "join"))
    return joined[0] if joined else None


async def _join_again(clients: Clients, room: SharedRoom) -> None:
    """Let users join whom others see in the room, and their own server does not.

    The answer to their join was lost, or a state resolution has taken it back and another has not.
    """
    for user_id in await _lost_joins(clients, room):
        await _check_departure_known(clients, room, user_id)
        await clients.join(user_id, room)


async def _check_departure_known(clients: Clients, room: SharedRoom, user_id: UserID) -> None:
    """Note a problem if a user has left the room, and the founder's server does not know."""
    home, own = (clients.servers[server_of(each)].store for each in (room.founder, user_id))
    state = await read_state(own, room.room_id)
    event_id = state.events.get(("m.room.member", user_id))
    if event_id is not None and event_id not in await read_statuses(home, room.room_id):
        clients.problems.append(f"{user_id} left by {event_id}, which {room.founder} cannot know")


async def _lost_joins(clients: Clients, room: SharedRoom) -> list[UserID]:
    founder = await read_state(clients.servers[server_of(room.founder)].store, room.room_id)
    lost: list[UserID] = []
    for server in clients.servers.values():
        own = await read_state(server.store, room.room_id)
        joined = [each for each in server.users if founder.membership(each) == "join"]
        lost.extend(each for each in joined if own.membership(each) != "join")
    return lost


async def _permit_messages(clients: Clients, room: SharedRoom) -> None:
    path = ("rooms", room.room_id, "state", "m.room.power_levels", "")
    response = await clients.call(room.founder, "GET", *path)
    assert response is not None
    if response.json.get("events_default", 0):
        content = {**response.json, "events_default": 0}
        await clients.set_state(room.founder, room, "m.room.power_levels", content)


async def wait_until_quiet(network: SimulatedNetwork, clients: Clients) -> None:
    """Wait until nothing is on its way between servers. Raises: AssertionError."""
    looks = 0
    deadline_s = trio.current_time() + SETTLE_S
    while looks < QUIET_LOOKS:
        await trio.sleep(LOOK_EVERY_S)
        busy = {name: _waiting(server) for name, server in clients.servers.items()}
        is_quiet = not network.in_flight and not any(map(sum, busy.values()))
        looks = looks + 1 if is_quiet else 0
        if trio.current_time() > deadline_s:
            raise AssertionError(f"{network.in_flight} requests are not answered, waiting: {busy}")


def _waiting(server: SimulatedServer) -> list[int]:
    assert server.life is not None
    duties = [duty for part in server.life.process.services.parts for duty in part.duties]
    names = ("federation sender 1 of 1", "incomplete PDUs")
    return [duty.waiting() for duty in duties if duty.name in names and duty.waiting is not None]
