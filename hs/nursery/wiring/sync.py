"""/sync and sliding sync: the notifier, and answers made of what all other services know."""

from typing import Final

import attrs

from hs.apis.client.sync.deprecated_sync import OldSyncApi
from hs.apis.client.sync.sliding_sync import SlidingSyncApi
from hs.apis.client.sync.sliding_sync_v4 import AcceptedSlidingSyncApi
from hs.apis.client.sync.sync import SyncApi
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission, Work
from hs.core.ids import RoomID
from hs.lib.tasks import Duty, every
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.room_reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.services.rooms.read.stripped_state import StrippedState, shown_state
from hs.services.rooms.threads.thread_subscriptions import ThreadSubscriptions
from hs.services.sync.assembly import (
    OldSync,
    RoomReaders,
    Sources,
    make_old_sync,
    make_sync,
)
from hs.services.sync.encryption_section import Encryption
from hs.services.sync.notifier import Notifier
from hs.services.sync.remote_presence import Strangers
from hs.services.sync.sliding.assembly import make_sliding_sync
from hs.services.sync.sliding.sliding_sync import SlidingSync
from hs.services.sync.sync_service import SyncService

EXPIRE_EVERY_S: Final = 24 * 3600.0


@attrs.frozen(eq=False, kw_only=True)
class Sync:
    """What answers clients that follow their rooms; one process of all does the `chores`."""

    notifier: Notifier
    readers: RoomReaders
    sources: Sources
    v3: SyncService
    sliding: SlidingSync
    old: OldSync
    duties: list[Duty]
    chores: list[Duty]


def wire_sync(
    ground: Foundation,
    rooms: Rooms,
    reading: Reading,
    sources: Sources,
    encryption: Encryption,
    admission: Admission,
    drain: Drain,
    threads: ThreadSubscriptions | None,
) -> Sync:
    """Build sync. After everything whose changes the notifier announces."""
    settings = ground.settings
    notifier = Notifier(ground.feed)
    readers = _readers(ground, rooms, reading)
    strangers = Strangers(ground.feed, notifier, readers.memberships)
    excluded = frozenset(RoomID(room) for room in settings.rooms.exclude_rooms_from_sync)
    gate = admission.gate(Work.SYNC)
    v3 = make_sync(
        readers,
        sources,
        notifier,
        max_timeline=settings.server.filter_timeline_limit,
        excluded=excluded,
        without_presence=frozenset(map(RoomID, settings.rooms.exclude_rooms_from_presence)),
        kept_for_ms=settings.caches.caches.sync_response_cache_duration,
        gate=gate,
    )
    sliding = make_sliding_sync(
        readers,
        sources,
        notifier,
        ground.clock,
        excluded=excluded,
        gate=gate,
        encryption=encryption,
        threads=threads,
    )

    async def leave() -> None:
        await notifier.leave_on(drain.started)

    async def expire() -> None:
        await every(EXPIRE_EVERY_S, sliding.connections.expire)

    return Sync(
        notifier=notifier,
        readers=readers,
        sources=sources,
        v3=v3,
        sliding=sliding,
        old=make_old_sync(readers, sources, notifier, v3, reading.snapshots, gate=gate),
        duties=[
            Duty("long-polls leave", leave),
            Duty("long-polls end", notifier.tick),
            Duty("presence of strangers", strangers.run),
        ],
        chores=[Duty("old sliding sync connections", expire)],
    )


def _readers(ground: Foundation, rooms: Rooms, reading: Reading) -> RoomReaders:
    shown = shown_state(ground.settings.prejoin)
    return RoomReaders(
        ground.database,
        ground.feed,
        rooms.events,
        rooms.states,
        rooms.memberships,
        rooms.tails,
        reading.rendering,
        reading.visibility,
        StrippedState(ground.database, rooms.events, rooms.states, shown),
    )


def sync_apis(sync: Sync) -> list[object]:
    """Give the endpoints."""
    return [
        SyncApi(sync.v3),
        SlidingSyncApi(sync.sliding),
        AcceptedSlidingSyncApi(sync.sliding),
        OldSyncApi(sync.old.stream, sync.old.initial),
    ]
