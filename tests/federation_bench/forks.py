"""State resolution of two forks, by the pure functions and by a server that receives the forks.

Forks conflict in all of their entries, or in few, as forks usually do.
"""

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
from immutables import Map

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.core.stateres.resolve import resolve
from hs.services.rooms.receive.event_receiver import PduOutcome
from hs.storage.migrate import bundled_migrations, migrate
from hs.storage.sqlite.threads import open_sqlite
from tests.federation_bench.figures import HS, Figures
from tests.federation_bench.prepared_rooms import PreparedRoom, prepare_room, users_of
from tests.support.receiving import ReceivingWorld, open_receiving

SERVER = "one.example"
LOCAL = UserID("@local:test.example")
VERSIONS = ("11", "12")
FEW = 100

Conflicting = Callable[[int], bool]


@attrs.frozen(eq=False)
class Forks:
    """A room whose state is the same up to `join`, and the state events of two forks after it.

    `late` is an event after both, and `merge` another one.
    """

    room: PreparedRoom
    before_join: list[Event]
    join: Event
    sides: tuple[list[Event], list[Event]]
    ends: tuple[Event, Event]
    merge: Event
    late: Event

    @property
    def room_id(self) -> RoomID:
        """The room."""
        return self.join.room_id

    def states(self) -> list[Map[StateKey, EventID]]:
        """Return the states at the ends of the forks."""
        base = {
            (event.type, event.state_key or ""): event.event_id
            for event in (*self.before_join, self.join)
        }
        return [
            Map({**base, **{(event.type, event.state_key or ""): event.event_id for event in side}})
            for side in self.sides
        ]

    def events(self) -> Mapping[EventID, Event]:
        """Return all state events."""
        both = (*self.before_join, self.join, *self.sides[0], *self.sides[1])
        return {event.event_id: event for event in both}


def make_forks(version: str, entries: int, conflicts: Conflicting) -> Forks:
    """Create a room of as many members as entries; both forks change entries of some members."""
    users = users_of(SERVER, entries)
    room = prepare_room(version, users)
    before = list(room.state.values())
    join = room.add(LOCAL, "m.room.member", {"membership": "join"}, LOCAL)
    state = dict(room.state)
    sides, ends = [], []
    for side in ("left", "right"):
        room.state, room.end = dict(state), join
        changed = [user for number, user in enumerate(users[1:], 1) if conflicts(number)]
        sides.append(
            [
                room.add(user, "m.room.member", {"membership": "join", "displayname": side}, user)
                for user in changed
            ]
        )
        # It cites the join too, so that this is no forward extremity any more.
        ends.append(room.build_after(users[0], [sides[-1][-1], join], side))
    merge, late = (room.build_after(users[0], ends, body) for body in ("merge", "late"))
    return Forks(
        room,
        before_join=before,
        join=join,
        sides=(sides[0], sides[1]),
        ends=(ends[0], ends[1]),
        merge=merge,
        late=late,
    )


async def measure_resolution(
    entries: int, rounds: int, figures: Figures, report: Callable[[str], None]
) -> None:
    """Measure the resolution of forks in all kinds of room versions."""
    kinds: dict[str, Conflicting] = {
        "all conflicting": lambda number: True,
        f"one in {FEW} conflicting": lambda number: number % FEW == 0,
    }
    for version in VERSIONS:
        for kind, conflicts in kinds.items():
            forks = make_forks(version, entries, conflicts)
            what = f"resolve two forks of {entries:,} entries, {kind}, version {version}"
            for _ in range(rounds):
                report(figures.add(f"{what}: pure", HS, _resolve_purely(forks) * 1000))
            async for cold_s, warm_s in _resolve_in_server(forks, rounds):
                report(figures.add(f"{what}: server, events in memory", HS, warm_s * 1000))
                report(figures.add(f"{what}: server, just started", HS, cold_s * 1000))


def _resolve_purely(forks: Forks) -> float:
    """Return the CPU time of the resolution, with all events in memory."""
    states, events = forks.states(), forks.events()
    before = time.process_time()
    resolved = resolve(forks.room.rules, states, events)
    used = time.process_time() - before
    assert set(resolved) == set(states[0])
    return used


async def _resolve_in_server(forks: Forks, rounds: int) -> AsyncIterator[tuple[float, float]]:
    """Yield the CPU times of receiving an event that follows the ends of both forks.

    The first is of a server that has just been started, and reads states and events from its
    database; the second of one that has the events in memory. Its room goes on from another event.
    """
    with tempfile.TemporaryDirectory(prefix="hs-bench-") as folder:
        template = Path(folder) / "forks.db"
        async with _open(template) as world:
            await _import(world, forks)
        for number in range(rounds):
            used = []
            for is_warm in (False, True):
                path = Path(folder) / f"{number}{is_warm}.db"
                path.write_bytes(template.read_bytes())
                async with _open(path) as world:
                    if is_warm:
                        await world.events.get(list(forks.events()))
                    before = time.process_time()
                    await _receive(world, forks, forks.late)
                    used.append(time.process_time() - before)
            yield used[0], used[1]


@asynccontextmanager
async def _open(path: Path) -> AsyncIterator[ReceivingWorld]:
    async with open_sqlite(path) as database:
        await migrate(database, bundled_migrations(), ["pre", "post"])
        async with open_receiving(database) as world:
            yield world


async def _import(world: ReceivingWorld, forks: Forks) -> None:
    state = [event.canonical for event in forks.before_join]
    await world.receiver.seed_room(
        forks.room_id, forks.room.rules.identifier, state, state, forks.join.canonical
    )
    states = forks.states()
    for side, end, after in zip(forks.sides, forks.ends, states, strict=True):
        await _receive(world, forks, end, side, list(after.values()))
    await _receive(world, forks, forks.merge)


async def _receive(
    world: ReceivingWorld,
    forks: Forks,
    event: Event,
    outliers: list[Event] | None = None,
    state: list[EventID] | None = None,
) -> None:
    states = {} if state is None else {event.event_id: state}
    encoded = [outlier.canonical for outlier in outliers or ()]
    result = await world.receiver.receive(forks.room_id, [event.canonical], encoded, states)
    assert [verdict.outcome for verdict in result.verdicts] == [PduOutcome.ACCEPTED], result
