"""Construction of the sync services from the room readers and the other services."""

import attrs

from hs.core.ids import RoomID
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.accounts.account_data.filters import StoredFilters
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.receipts import Receipts
from hs.services.ephemeral.typing_notifications import TypingUsers
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.store.shared_rooms import SharedRooms
from hs.services.sync.account_data_section import AccountDataSection, PresenceSection
from hs.services.sync.compiled_filters import CompiledFilters
from hs.services.sync.encryption_section import EncryptionSection
from hs.services.sync.event_stream import EventStream
from hs.services.sync.initial_sync import InitialSync
from hs.services.sync.late_counts import LateCountsSection
from hs.services.sync.lazy_members import LazyMembers
from hs.services.sync.notifier import Notifier
from hs.services.sync.positions import StoredPositions, SyncPositions
from hs.services.sync.profile_section import ProfileSection
from hs.services.sync.profile_updates import ProfileUpdates
from hs.services.sync.response_cache import ResponseCache
from hs.services.sync.room_ephemeral import RoomEphemeralSection
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.room_selection import RoomSelection
from hs.services.sync.room_summary import RoomSummaries
from hs.services.sync.rooms_section import RoomsSection
from hs.services.sync.sources import PushRuleDocuments, UnreadCountSource
from hs.services.sync.state_section import StateSection
from hs.services.sync.sticky_section import StickySection
from hs.services.sync.sync_gate import SyncGate
from hs.services.sync.sync_service import SyncSections, SyncService
from hs.services.sync.timeline_range import TimelineRanges
from hs.services.sync.timeline_section import TimelineSection


@attrs.frozen(eq=False)
class SyncSources:
    """What sync reads besides rooms."""

    account_data: AccountDataService
    push_rules: PushRuleDocuments
    filters: StoredFilters
    receipts: Receipts
    typing: TypingUsers
    presence: PresenceService
    counts: UnreadCountSource
    encryption: EncryptionSection


@attrs.frozen(eq=False, kw_only=True)
class SyncOptions:
    """The settings of sync; `gate` limits how many responses are computed at a time.

    `max_timeline` is `filter_timeline_limit`, `excluded` is `exclude_rooms_from_sync`,
    `without_presence` is `exclude_rooms_from_presence`, `kept_for_ms` is
    `sync_response_cache_duration`, `stored_positions` is None if there are no other processes.
    """

    max_timeline: int
    excluded: frozenset[RoomID]
    without_presence: frozenset[RoomID]
    kept_for_ms: int
    gate: SyncGate
    stored_positions: StoredPositions | None = None


def make_sections(rooms: RoomReaders, sources: SyncSources, options: SyncOptions) -> SyncSections:
    """Build the sections of responses, after their sources, before the feed starts."""
    feed = rooms.feed
    shared_rooms = SharedRooms(rooms.database, rooms.events, rooms.memberships, rooms.tails)
    selection = RoomSelection(
        database=rooms.database,
        feed=feed,
        tails=rooms.tails,
        events=rooms.events,
        states=rooms.states,
        visibility=rooms.visibility,
        account_data=sources.account_data,
        excluded=options.excluded,
    )
    sticky = StickySection(rooms.sticky, rooms.events, rooms.visibility, rooms.rendering, selection)
    return SyncSections(
        room_selection=selection,
        rooms=_rooms_section(rooms, sources, sticky),
        ephemeral=RoomEphemeralSection(feed, sources.receipts, sources.typing),
        account_data=AccountDataSection(feed, sources.account_data, sources.push_rules),
        presence=PresenceSection(
            feed, sources.presence, rooms.memberships, rooms.tails, options.without_presence
        ),
        encryption=sources.encryption,
        profiles=ProfileSection(
            ProfileUpdates(rooms.database, feed, shared_rooms), rooms.memberships, shared_rooms
        ),
        sticky=sticky,
        late_counts=LateCountsSection(sources.counts, selection),
    )


def make_sync(
    rooms: RoomReaders,
    sources: SyncSources,
    sections: SyncSections,
    notifier: Notifier,
    options: SyncOptions,
    lazy: LazyMembers,
) -> SyncService:
    """Build the `/sync` service."""
    return SyncService(
        positions=SyncPositions(rooms.feed, options.stored_positions),
        notifier=notifier,
        memberships=rooms.memberships,
        visibility=rooms.visibility,
        rendering=rooms.rendering,
        compiled_filters=CompiledFilters(sources.filters, options.max_timeline),
        lazy=lazy,
        presence=sources.presence,
        sections=sections,
        response_cache=ResponseCache(options.kept_for_ms),
        gate=options.gate,
    )


def _rooms_section(rooms: RoomReaders, sources: SyncSources, sticky: StickySection) -> RoomsSection:
    events, states = rooms.events, rooms.states
    return RoomsSection(
        ranges=TimelineRanges(rooms.database, rooms.tails, events),
        timelines=TimelineSection(events, states, rooms.visibility, rooms.rendering),
        states=StateSection(
            database=rooms.database,
            tails=rooms.tails,
            events=events,
            states=states,
            stays=rooms.membership_history,
            visibility=rooms.visibility,
            rendering=rooms.rendering,
        ),
        summaries=RoomSummaries(events, states, rooms.memberships),
        stripped=rooms.stripped,
        counts=sources.counts,
        events=events,
        rendering=rooms.rendering,
        sticky=sticky,
    )


@attrs.frozen(eq=False)
class DeprecatedSync:
    """The services of the deprecated endpoints `/events` and `/initialSync`."""

    stream: EventStream
    initial: InitialSync


def make_deprecated_sync(
    rooms: RoomReaders,
    sources: SyncSources,
    sections: SyncSections,
    notifier: Notifier,
    options: SyncOptions,
    snapshots: RoomSnapshots,
) -> DeprecatedSync:
    """Build the deprecated services."""
    positions = SyncPositions(rooms.feed, options.stored_positions)
    showing = EventSerializer(rooms.visibility, rooms.rendering)
    return DeprecatedSync(
        EventStream(
            readers=rooms,
            positions=positions,
            notifier=notifier,
            presence=sources.presence,
            showing=showing,
            sections=sections,
            gate=options.gate,
        ),
        InitialSync(
            readers=rooms,
            positions=positions,
            receipts=sources.receipts,
            presence=sources.presence,
            snapshots=snapshots,
            showing=showing,
            sections=sections,
            gate=options.gate,
        ),
    )
