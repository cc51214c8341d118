"""What must be true after a run, once all faults are healed and the servers have settled.

Of the honest servers that are in a room, as the server of its founder sees it:

- they agree who is in it, on its resolved state, and on its forward extremities;
- each has stored every acknowledged event once, has not rejected it, and shows it once to a client
  that reads back from the end of the room. One exception: a server may have soft-failed an event
  whose sender lost the permission to send it elsewhere at the same time, as the specification
  wants. Then a server that joins later does not get it.
- they agree which events are rejected. Soft failures may differ: they depend on what a server knew
  when the event arrived.

A server that others do not see in the room has the event by which its users were removed. It need
not know if a state resolution has taken back their joins, as the room had closed at the same time:
that is no event that anybody could send to it. The founder's server has the events by which users
have left.

Of all honest servers: no client was ever shown an event that its server has rejected or
soft-failed, nor one of those that the malicious server made so that no server may accept them. Only
the current state may contain a soft-failed event, if the state resolution selects it. Each
acknowledged event is stored where it was acknowledged, whatever crashed. Each acknowledged
to-device message has arrived once. Users who share a room see the present names of each other's
devices.
"""

import itertools

import attrs

from hs.core.ids import EventID, UserID, server_of
from hs.services.rooms.store.stored_event import EventStatus
from tests.simulation.clients import Clients, SharedRoom
from tests.simulation.evil_room import EVIL_BODY
from tests.simulation.malice import Mallory
from tests.simulation.rows import (
    StoredState,
    read_extremities,
    read_memberships,
    read_state,
    read_statuses,
)
from tests.simulation.servers import SimulatedServer
from tests.simulation.settling import FinalMessages

Statuses = dict[EventID, tuple[EventStatus, str]]


@attrs.frozen(eq=False)
class _RoomOfServer:
    server: SimulatedServer
    state: StoredState
    extremities: set[EventID]
    statuses: Statuses

    @property
    def joined(self) -> list[UserID]:
        """The users of the server who are in the room."""
        return [user for user in self.server.users if self.state.membership(user) == "join"]

    def expected(self, home: "_RoomOfServer") -> list[UserID]:
        """Return the users of the server who are in the room as another server sees it."""
        return [user for user in self.server.users if home.state.membership(user) == "join"]

    def having(self, *statuses: EventStatus) -> set[EventID]:
        """Return the events with one of some statuses."""
        return {each for each, (status, _) in self.statuses.items() if status in statuses}


async def check_all(clients: Clients, final: FinalMessages, mallory: Mallory | None) -> list[str]:
    """Return what is wrong."""
    problems: list[str] = []
    for room in clients.rooms:
        views = [await _view(server, room) for server in clients.servers.values()]
        (home,) = (view for view in views if view.server.name == server_of(room.founder))
        problems += await _check_agreement(room, home, views)
        problems += _check_stored(clients, room, views)
        for view in views:
            problems += _check_shown(clients, view)
            if view.joined and view.expected(home):
                problems += await _check_read(clients, room, home, view, final)
                # Readers made their servers fetch history; now redactions of it may be shown.
                problems += _check_shown(clients, await _view(view.server, room))
    problems += _check_never_shown(clients, mallory)
    problems += await _check_to_device(clients)
    problems += await _check_devices(clients)
    return problems


async def _view(server: SimulatedServer, room: SharedRoom) -> _RoomOfServer:
    return _RoomOfServer(
        server,
        await read_state(server.store, room.room_id),
        await read_extremities(server.store, room.room_id),
        await read_statuses(server.store, room.room_id),
    )


async def _check_agreement(
    room: SharedRoom, home: _RoomOfServer, views: list[_RoomOfServer]
) -> list[str]:
    problems = []
    for view in views:
        name = f"{room.room_id} (version {room.version}) at {view.server.name}"
        if view is home:
            continue
        problems += [
            f"{name}: {user_id} is joined, and the server has not received {event_id}"
            for user_id, event_id in await _unknown_departures(room, view, home)
        ]
        expected = view.expected(home)
        if not expected:
            continue
        if view.joined != expected:
            problems.append(f"{name}: joined are {view.joined}, not {expected}")
        differences = set(view.state.events.items()) ^ set(home.state.events.items())
        if differences:
            problems.append(f"{name}: the state differs in {sorted(differences)}")
        if view.extremities != home.extremities:
            problems.append(
                f"{name}: the forward extremities are {view.extremities}, not {home.extremities}"
            )
        both = view.statuses.keys() & home.statuses.keys()
        both -= view.having(EventStatus.OUTLIER) | home.having(EventStatus.OUTLIER)
        rejected = view.having(EventStatus.REJECTED) ^ home.having(EventStatus.REJECTED)
        if rejected & both:
            problems.append(f"{name}: not equally rejected are {sorted(rejected & both)}")
    return problems


async def _unknown_departures(
    room: SharedRoom, view: _RoomOfServer, home: _RoomOfServer
) -> list[tuple[UserID, EventID]]:
    """Return the users whom only their own server sees in the room, as it lacks an event."""
    found = []
    for user_id in view.joined:
        departure = home.state.events.get(("m.room.member", user_id))
        if home.state.membership(user_id) not in ("leave", "ban") or departure in view.statuses:
            continue
        assert departure is not None
        memberships = await read_memberships(home.server.store, room.room_id, user_id)
        before = list(memberships)[: list(memberships).index(departure)]
        # What was not preceded by a membership is nothing that the server has to know.
        if before and memberships[before[-1]] != "ban":
            found.append((user_id, departure))
    return found


def _check_stored(clients: Clients, room: SharedRoom, views: list[_RoomOfServer]) -> list[str]:
    problems = []
    for sent in clients.acknowledged:
        if sent.room_id != room.room_id:
            continue
        for view in views:
            status, _ = view.statuses.get(sent.event_id, (None, ""))
            where = f"{sent.kind} {sent.event_id} of {sent.server} at {view.server.name}"
            if status is EventStatus.REJECTED:
                problems.append(f"{where}: it is rejected")
            if view.server.name == sent.server and status is not EventStatus.ACCEPTED:
                problems.append(f"{where}: its status is {status}")
    return problems


async def _check_read(
    clients: Clients,
    room: SharedRoom,
    home: _RoomOfServer,
    view: _RoomOfServer,
    final: FinalMessages,
) -> list[str]:
    problems = []
    void = view.having(EventStatus.SOFT_FAILED, EventStatus.REJECTED, EventStatus.HIDDEN)
    # A server passes on none that it has soft-failed, to one that was not in the room then.
    void |= home.having(EventStatus.SOFT_FAILED) - view.statuses.keys()
    wanted = {each.event_id for each in clients.acknowledged if each.room_id == room.room_id}
    for user_id in view.joined:
        who = f"{user_id} in {room.room_id} (version {room.version})"
        found = await clients.scroll(user_id, room)
        if len(set(found)) < len(found):
            repeated = {each for each in found if found.count(each) > 1}
            problems.append(f"{who} reads events twice: {repeated}")
        texts = clients.readers[user_id].read.items()
        if twice := {text for text, count in texts if count > 1 and text.startswith("message ")}:
            problems.append(f"{who} reads messages twice: {twice}")
        if missing := wanted - set(found) - void - view.having(EventStatus.OUTLIER):
            problems.append(f"{who} does not read {missing}")
        state = await clients.state(user_id, room)
        if state != view.state.events:
            problems.append(f"{who} sees another state: {state} instead of {view.state.events}")
        await clients.sync(user_id)
        shown = clients.readers[user_id].shown.get(room.room_id, [])
        if final.events[room.room_id] not in shown:
            problems.append(f"{who}: sync does not show the last message")
    return problems


def _check_shown(clients: Clients, view: _RoomOfServer) -> list[str]:
    problems = []
    void = view.having(EventStatus.SOFT_FAILED, EventStatus.REJECTED, EventStatus.HIDDEN)
    for reader in clients.readers.values():
        if server_of(reader.user_id) == view.server.name and (bad := void & reader.timeline):
            problems.append(f"{reader.user_id} was shown {bad}, which were not accepted")
        rejected = view.having(EventStatus.REJECTED)
        if server_of(reader.user_id) == view.server.name and (bad := rejected & reader.state):
            problems.append(f"{reader.user_id} was shown the rejected state {bad}")
    return problems


async def _check_devices(clients: Clients) -> list[str]:
    problems = []
    names = {user_id: await clients.query_device(user_id, user_id) for user_id in clients.users}
    for room in clients.rooms:
        home = await read_state(clients.servers[server_of(room.founder)].store, room.room_id)
        joined = [each for each in clients.users if home.membership(each) == "join"]
        for viewer, owner in itertools.permutations(joined, 2):
            name = await clients.query_device(viewer, owner)
            if name != names[owner]:
                problems.append(
                    f"{viewer} sees the device of {owner} as {name!r}, which is {names[owner]!r}"
                )
    return problems


async def _check_to_device(clients: Clients) -> list[str]:
    problems = []
    for user_id in clients.users:
        for _ in range(2):  # the first may be given up because another is under way
            await clients.sync(user_id)
        arrived = clients.readers[user_id].messages
        sent = {each for each, (recipient, _) in clients.to_device.items() if recipient == user_id}
        acknowledged = {each for each in sent if clients.to_device[each][1]}
        if missing := acknowledged - arrived.keys():
            problems.append(f"to-device messages {missing} did not arrive at {user_id}")
        if wrong := {each for each in arrived if arrived[each] > 1 or each not in sent}:
            problems.append(f"to-device messages {wrong} arrived twice or wrongly at {user_id}")
    return problems


def _check_never_shown(clients: Clients, mallory: Mallory | None) -> list[str]:
    if mallory is None:
        return []
    problems = []
    for reader in clients.readers.values():
        if bad := mallory.never_shown & (reader.timeline | reader.state):
            problems.append(f"{reader.user_id} was shown {bad}, which nobody may accept")
        if EVIL_BODY in reader.bodies:
            problems.append(f"{reader.user_id} was shown the text of an event that is wrong")
    return problems
