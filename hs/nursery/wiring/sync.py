"""/sync and sliding sync: the notifier, and responses composed of all other services."""

from functools import partial
from typing import Final

import attrs

from hs.apis.client.sync.deprecated_sync import DeprecatedSyncApi
from hs.apis.client.sync.sliding_sync import UnstableSlidingSyncApi
from hs.apis.client.sync.sliding_sync_v4 import SlidingSyncApi
from hs.apis.client.sync.sync import SyncApi
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission, WorkClass
from hs.core.ids import RoomID
from hs.core.streams import DEVICE_LISTS, PROFILE_UPDATES
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.process_metrics import watch_notifier
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.devices import DeviceServices
from hs.nursery.wiring.ephemeral import EphemeralServices
from hs.nursery.wiring.push import PushServices
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.nursery.wiring.rooms.threads import ThreadServices
from hs.services.rooms.read.stripped_state import StrippedState, included_state
from hs.services.sync.assembly import (
    SyncOptions,
    SyncSources,
    make_deprecated_sync,
    make_sections,
    make_sync,
)
from hs.services.sync.lazy_members import LazyMembers, SentMemberRecords
from hs.services.sync.notifier import Notifier
from hs.services.sync.remote_presence import RemotePresenceDuty
from hs.services.sync.remote_user_changes import RemoteUserDuty, UserChangeWaking
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.sliding.assembly import make_sliding_sync
from hs.services.sync.sliding.sliding_sync import SlidingSync
from hs.services.sync.sync_gate import OpenGate
from hs.services.sync.sync_service import SyncService
from hs.storage import stream_log

EXPIRE_EVERY_S: Final = 24 * 3600.0


@attrs.frozen(eq=False, kw_only=True)
class SyncServices:
    """The sync services, and the notifier that wakes their long polls."""

    notifier: Notifier
    sync: SyncService
    sliding: SlidingSync
    remote_presence: RemotePresenceDuty
    part: Part


def sync_sources(
    accounts: AccountServices,
    push: PushServices,
    ephemeral: EphemeralServices,
    devices: DeviceServices,
) -> SyncSources:
    """Return what sync reads besides rooms."""
    return SyncSources(
        account_data=accounts.account_data,
        push_rules=push.rules,
        filters=accounts.filters,
        receipts=ephemeral.receipts,
        typing=ephemeral.typing_users,
        presence=ephemeral.presence,
        counts=push.counts,
        encryption=devices.encryption,
    )


def wire_sync(
    base: ProcessBase,
    rooms: Rooms,
    reading: RoomReading,
    sources: SyncSources,
    threads: ThreadServices,
    *,
    admission: Admission,
    drain: Drain,
) -> SyncServices:
    """Build sync; the subscriptions to threads are an extension of sliding sync."""
    notifier = Notifier(base.feed)
    readers = _readers(base, rooms, reading)
    remote_presence = RemotePresenceDuty(base.feed, notifier, readers.memberships)
    options = _options(base, admission)
    sections = make_sections(readers, sources, options)
    v3 = make_sync(readers, sources, sections, notifier, options, _lazy_members(base))
    sliding = make_sliding_sync(
        readers,
        sources,
        notifier,
        options,
        threads.subscriptions,
        base.clock,
        profiles=sections.profiles.updates,
    )
    old = make_deprecated_sync(readers, sources, sections, notifier, options, reading.snapshots)

    endpoints = [
        SyncApi(v3),
        UnstableSlidingSyncApi(sliding),
        SlidingSyncApi(sliding),
        DeprecatedSyncApi(old.stream, old.initial),
    ]
    duties = [
        Duty("end long polls at shutdown", partial(notifier.leave_on, drain.started)),
        Duty("long poll timeouts", notifier.tick),
        Duty("remote presence", remote_presence.run),
        *_remote_user_duties(base, notifier, readers),
        Duty(
            "sliding sync connection cleanup",
            sliding.connections.expire,
            plan_duty=BACKGROUND,
            period_s=EXPIRE_EVERY_S,
            at_start=False,
        ),
    ]
    metrics = [partial(watch_notifier, notifier=notifier)]
    return SyncServices(
        notifier=notifier,
        sync=v3,
        sliding=sliding,
        remote_presence=remote_presence,
        part=Part(endpoints=endpoints, duties=duties, metrics=metrics),
    )


def _lazy_members(base: ProcessBase) -> LazyMembers:
    # Those that can be called: every process knows them, so a number means the same one everywhere.
    # All other processes, which nobody can ask, have the next number. After a change of the list, a
    # number may name a process that does not know the record.
    names = sorted(base.ownership.topology.locations)
    own = base.plan.instance

    def source(number: int) -> SentMemberRecords | None:
        if base.cluster is None or number >= len(names):
            return None
        return base.cluster.clients.proxy(SentMemberRecords, names[number])

    lazy = LazyMembers(names.index(own) if own in names else len(names), source)
    if base.cluster is not None:
        base.cluster.server.register(SentMemberRecords, lazy)
    return lazy


def _remote_user_duties(base: ProcessBase, notifier: Notifier, readers: RoomReaders) -> list[Duty]:
    database, feed, memberships = base.database, base.feed, readers.memberships
    device_lists = UserChangeWaking(
        DEVICE_LISTS, notifier.device_list_stranger, notifier.wake_rooms
    )
    profiles = UserChangeWaking(
        PROFILE_UPDATES, notifier.profile_stranger, notifier.wake_profile_followers
    )
    return [
        Duty("remote device lists", RemoteUserDuty(database, feed, memberships, device_lists).run),
        Duty("remote profiles", RemoteUserDuty(database, feed, memberships, profiles).run),
    ]


def _options(base: ProcessBase, admission: Admission) -> SyncOptions:
    settings = base.settings

    async def stored_positions() -> list[tuple[str, str, int]]:
        return await base.database.read(stream_log.list_positions)

    gate = admission.gate(WorkClass.SYNC)
    return SyncOptions(
        max_timeline=settings.server.filter_timeline_limit,
        excluded=frozenset(map(RoomID, settings.rooms.exclude_rooms_from_sync)),
        without_presence=frozenset(map(RoomID, settings.rooms.exclude_rooms_from_presence)),
        kept_for_ms=settings.caches.caches.sync_response_cache_duration,
        gate=OpenGate() if gate is None else gate,
        stored_positions=None if base.cluster is None else stored_positions,
    )


def _readers(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> RoomReaders:
    shown = included_state(base.settings.prejoin)
    return RoomReaders(
        database=base.database,
        feed=base.feed,
        events=rooms.events,
        states=rooms.states,
        memberships=rooms.memberships,
        membership_history=reading.membership_history,
        tails=rooms.tails,
        sticky=rooms.sticky,
        rendering=reading.rendering,
        visibility=reading.visibility,
        stripped=StrippedState(base.database, rooms.events, rooms.states, shown),
    )
