"""What a run consists of: the processes, what each of them does, and the faults."""

import random
from collections.abc import Mapping

import attrs

from hs.repl.leases import SKEW_MS
from hs.settings.sections.listeners import Listener, Resource
from hs.settings.sections.workers import STREAMS, InstanceAddress, WorkerSettings
from hs.settings.settings import Settings
from tests.support.composition import SETTINGS
from tests.worker_simulation.bus import BusFaults
from tests.worker_simulation.database import DatabaseFaults
from tests.worker_simulation.wires import WireFaults

SHARED = (
    "events",
    "receipts",
    "account_data",
    "to_device",
    "device_lists",
    "typing",
    "presence",
)


@attrs.frozen(kw_only=True)
class Plan:
    """The plan of a run. `incidents` are what happens to processes: `most` times in all."""

    names: tuple[str, ...]
    writers: Mapping[str, tuple[str, ...]]
    backgrounds: tuple[str, ...]  # each but the first has a file that says so
    pushers: tuple[str, ...]
    internal: tuple[str, ...]  # those that have no listener for clients
    skews_ms: tuple[int, ...]
    sees_deaths: bool
    bus: BusFaults
    latency_s: float  # of the bus
    wires: WireFaults
    database: DatabaseFaults
    restarts: bool  # before anything else, so that announcements of the end were recorded
    incidents: tuple[str, ...]
    pause_s: float
    most: int
    users: int
    actions: int

    @property
    def has_database_faults(self) -> bool:
        """Whether statements fail."""
        return bool(self.database.failed or self.database.unknown or "cut off" in self.incidents)

    @classmethod
    def by_chance(cls, chance: random.Random) -> "Plan":
        """Return a plan."""
        names = ("main", "sync1", *chance.sample(_OTHERS, chance.choice((1, 1, 2, 3))))
        others = [name for name in names if name in _MAY_BE_INTERNAL]
        incidents = tuple(kind for kind in INCIDENTS if chance.random() < 0.4)
        skew_ms = chance.choice((0, 50, SKEW_MS // 2))
        slow, slowest_s = chance.choice(_SLOWNESS)
        return cls(
            names=names,
            writers=_writers(chance, names),
            backgrounds=tuple(chance.sample(names, chance.choice((1, 1, 2)))),
            pushers=tuple(chance.sample(names, chance.choice((1, 1, 2)))),
            skews_ms=tuple(chance.randint(-skew_ms, skew_ms) for _ in names),
            sees_deaths=chance.random() < 0.7,
            bus=BusFaults(
                lost=chance.choice((0, 0, 0.05, 0.3)),
                delayed=chance.choice((0, 0.05, 0.2)),
                doubled=chance.choice((0, 0.05, 0.2)),
                forged=chance.choice((0, 0.05)),
            ),
            latency_s=chance.choice((0, 0.002, 0.02)),
            wires=WireFaults(
                breaks=chance.choice((0, 0, 0.02, 0.08)), delay_s=chance.choice((0, 0.01, 0.1))
            ),
            database=DatabaseFaults(
                slow=slow,
                slowest_s=slowest_s,
                failed=chance.choice((0, 0, 0, 0.01)),
                unknown=chance.choice((0, 0, 0.02)),
            ),
            restarts=chance.random() < 0.3,
            incidents=incidents,
            pause_s=chance.choice((2.0, 8.0)),
            most=chance.choice((2, 4, 6)),
            users=chance.choice((3, 4)),
            actions=chance.choice((15, 25)),
            internal=tuple(
                chance.sample(others, chance.choice((0, len(others) // 2, len(others))))
            ),
        )

    def settings_of(self, name: str) -> Settings:
        """Return the settings of a process."""
        workers = attrs.evolve(
            WorkerSettings(),
            name=name,
            instances={each: InstanceAddress(host=each, port=1) for each in self.names},
            writers=self.writers,
            background_tasks=(name if name in self.backgrounds else self.backgrounds[0],),
            pushers=self.pushers,
        )
        listeners = _LISTENERS[:1] if name in self.internal else _LISTENERS
        return attrs.evolve(SETTINGS, workers=workers, listeners=listeners)


INCIDENTS = ("kill", "stop", "hang", "replace", "redis", "cut off", "move")
_LISTENERS = tuple(
    Listener(port=port, resources=(Resource(names=names),))
    for port, names in ((9093, ("replication",)), (8008, ("client",)))
)
_SLOWNESS = ((0.05, 0.02), (0.3, 0.02), (0.05, 0.2), (0.3, 0.2), (0.05, 1.5))
_MAY_BE_INTERNAL = ("persister1", "persister2", "persister3", "background1", "pusher1")
_OTHERS = ("sync2", *_MAY_BE_INTERNAL)


def _writers(chance: random.Random, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    writers: dict[str, tuple[str, ...]] = {stream: (chance.choice(names),) for stream in STREAMS}
    for stream in SHARED:
        writers[stream] = tuple(chance.sample(names, chance.choice((1, 2, 2, 3))))
    return writers
