"""Construction of the sliding sync service from the same readers and sources as `/sync`."""

from hs.lib.clock import Clock
from hs.services.rooms.store.shared_rooms import SharedRooms
from hs.services.rooms.threads.thread_subscriptions import ThreadSubscriptions
from hs.services.sync.assembly import SyncOptions, SyncSources
from hs.services.sync.notifier import Notifier
from hs.services.sync.positions import SyncPositions
from hs.services.sync.profile_updates import ProfileUpdates
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.sliding.account_data_view import AccountDataViews
from hs.services.sync.sliding.connections import SlidingConnections
from hs.services.sync.sliding.encryption_extension import EncryptionExtensions
from hs.services.sync.sliding.extensions import SlidingExtensions
from hs.services.sync.sliding.profile_extension import ProfileExtension
from hs.services.sync.sliding.response_state import ResponseState
from hs.services.sync.sliding.room_activity import RoomActivity
from hs.services.sync.sliding.room_lists import RoomLists
from hs.services.sync.sliding.rooms_response import RoomsResponse
from hs.services.sync.sliding.sliding_sync import SlidingSync
from hs.services.sync.sliding.sticky_extension import StickyExtension
from hs.services.sync.sliding.thread_extension import ThreadExtension
from hs.services.sync.sliding.timeline_slice import TimelineSlices


def make_sliding_sync(
    rooms: RoomReaders,
    sources: SyncSources,
    notifier: Notifier,
    options: SyncOptions,
    threads: ThreadSubscriptions | None,
    clock: Clock,
    *,
    profiles: ProfileUpdates,
) -> SlidingSync:
    """Build the service. Call it after its sources are built, before the feed starts.

    `connections.expire` of the result must run daily, as a duty of one process.
    """
    database, feed = rooms.database, rooms.feed
    results = RoomsResponse(
        events=rooms.events,
        memberships=rooms.memberships,
        membership_history=rooms.membership_history,
        visibility=rooms.visibility,
        rendering=rooms.rendering,
        stretches=TimelineSlices(database, rooms.tails, rooms.events),
        states=ResponseState(database, rooms.events, rooms.states, rooms.membership_history),
        stripped=rooms.stripped,
        counts=sources.counts,
    )
    return SlidingSync(
        database=database,
        positions=SyncPositions(feed, options.stored_positions),
        notifier=notifier,
        memberships=rooms.memberships,
        visibility=rooms.visibility,
        tails=rooms.tails,
        presence=sources.presence,
        connections=SlidingConnections(database, clock),
        account_data=AccountDataViews(feed, sources.account_data),
        lists=RoomLists(
            database=database,
            activity=RoomActivity(database, feed),
            events=rooms.events,
            states=rooms.states,
            visibility=rooms.visibility,
            tails=rooms.tails,
            excluded=options.excluded,
        ),
        results=results,
        extensions=_extensions(rooms, sources, threads, profiles),
        gate=options.gate,
        counts=sources.counts,
    )


def _extensions(
    rooms: RoomReaders,
    sources: SyncSources,
    threads: ThreadSubscriptions | None,
    profiles: ProfileUpdates,
) -> SlidingExtensions:
    return SlidingExtensions(
        feed=rooms.feed,
        account_data=sources.account_data,
        push_rules=sources.push_rules,
        receipts=sources.receipts,
        typing=sources.typing,
        encryption=EncryptionExtensions(sources.encryption),
        threads=ThreadExtension(rooms.feed, threads),
        profiles=ProfileExtension(
            profiles,
            rooms.memberships,
            SharedRooms(rooms.database, rooms.events, rooms.memberships, rooms.tails),
        ),
        sticky=_sticky_extension(rooms),
    )


def _sticky_extension(rooms: RoomReaders) -> StickyExtension:
    return StickyExtension(
        sticky=rooms.sticky,
        events=rooms.events,
        states=rooms.states,
        tails=rooms.tails,
        visibility=rooms.visibility,
        rendering=rooms.rendering,
    )
