"""Construction of the sync services from the room readers and the other services."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import attrs

from hs.core.ids import RoomID
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.store.replaced_state import ReplacedState
from hs.services.sync.account_data_section import AccountDataSection, PresenceSection
from hs.services.sync.compiled_filters import CompiledFilters
from hs.services.sync.event_stream import EventStream
from hs.services.sync.initial_sync import InitialSync
from hs.services.sync.lazy_members import LazyMembers
from hs.services.sync.notifier import Notifier
from hs.services.sync.positions import SyncPositions
from hs.services.sync.response_cache import ResponseCache
from hs.services.sync.room_ephemeral import RoomEphemeralSection
from hs.services.sync.room_readers import RoomReaders as RoomReaders
from hs.services.sync.room_selection import RoomSelection
from hs.services.sync.room_summary import RoomSummaries
from hs.services.sync.rooms_section import RoomsSection
from hs.services.sync.sources import (
    AccountData,
    Extension,
    Filters,
    Presence,
    PushRuleDocuments,
    ReceiptSource,
    Typing,
    UnreadCountSource,
)
from hs.services.sync.state_section import StateSection
from hs.services.sync.sync_service import SyncSections, SyncService
from hs.services.sync.timeline_range import TimelineRanges
from hs.services.sync.timeline_section import TimelineSection


@attrs.frozen(eq=False)
class SyncSources:
    """The interfaces of other services that sync reads from."""

    account_data: AccountData
    push_rules: PushRuleDocuments
    filters: Filters
    receipts: ReceiptSource
    typing: Typing
    presence: Presence
    counts: UnreadCountSource
    extensions: Sequence[Extension] = ()


def make_sync(
    rooms: RoomReaders,
    sources: SyncSources,
    notifier: Notifier,
    *,
    max_timeline: int = 100,
    excluded: frozenset[RoomID] = frozenset(),
    without_presence: frozenset[RoomID] = frozenset(),
    kept_for_ms: int = 120_000,
    gate: AbstractAsyncContextManager[None] | None = None,
) -> SyncService:
    """Build the `/sync` service. Call it after its sources are built, before the feed starts.

    `max_timeline` is `filter_timeline_limit`, `excluded` is `exclude_rooms_from_sync`,
    `without_presence` is `exclude_rooms_from_presence`, `kept_for_ms` is
    `sync_response_cache_duration`; `gate` limits how many responses are computed at a time.
    """
    feed, events, states = rooms.feed, rooms.events, rooms.states
    sections = SyncSections(
        room_selection=RoomSelection(
            database=rooms.database,
            feed=feed,
            tails=rooms.tails,
            events=events,
            states=states,
            visibility=rooms.visibility,
            account_data=sources.account_data,
            excluded=excluded,
        ),
        rooms=_rooms_section(rooms, sources),
        ephemeral=RoomEphemeralSection(feed, sources.receipts, sources.typing),
        account_data=AccountDataSection(feed, sources.account_data, sources.push_rules),
        presence=PresenceSection(
            feed, sources.presence, rooms.memberships, rooms.tails, without_presence
        ),
        extensions=sources.extensions,
    )
    return SyncService(
        positions=SyncPositions(feed),
        notifier=notifier,
        memberships=rooms.memberships,
        visibility=rooms.visibility,
        rendering=rooms.rendering,
        compiled_filters=CompiledFilters(sources.filters, max_timeline),
        lazy=LazyMembers(),
        presence=sources.presence,
        sections=sections,
        response_cache=ResponseCache(kept_for_ms),
        gate=nullcontext() if gate is None else gate,
    )


def _rooms_section(rooms: RoomReaders, sources: SyncSources) -> RoomsSection:
    events, states = rooms.events, rooms.states
    previous = ReplacedState(rooms.database, events, states)
    return RoomsSection(
        ranges=TimelineRanges(rooms.database, rooms.tails, events),
        timelines=TimelineSection(events, states, rooms.visibility, rooms.rendering),
        states=StateSection(
            database=rooms.database,
            tails=rooms.tails,
            events=events,
            states=states,
            previous=previous,
            stays=rooms.visibility.membership_history,
        ),
        summaries=RoomSummaries(events, states, rooms.memberships, previous),
        stripped=rooms.stripped,
        counts=sources.counts,
        events=events,
        rendering=rooms.rendering,
    )


@attrs.frozen(eq=False)
class DeprecatedSync:
    """The services of the deprecated endpoints `/events` and `/initialSync`."""

    stream: EventStream
    initial: InitialSync


def make_deprecated_sync(
    rooms: RoomReaders,
    sources: SyncSources,
    notifier: Notifier,
    sync: SyncService,
    snapshots: RoomSnapshots,
    *,
    gate: AbstractAsyncContextManager[None] | None = None,
) -> DeprecatedSync:
    """Build the deprecated services from the sections of the `/sync` service."""
    positions = SyncPositions(rooms.feed)
    showing = EventSerializer(rooms.visibility, rooms.rendering)
    bound = nullcontext() if gate is None else gate
    return DeprecatedSync(
        EventStream(
            readers=rooms,
            positions=positions,
            notifier=notifier,
            presence=sources.presence,
            showing=showing,
            sections=sync.sections,
            gate=bound,
        ),
        InitialSync(
            readers=rooms,
            positions=positions,
            receipts=sources.receipts,
            presence=sources.presence,
            snapshots=snapshots,
            showing=showing,
            sections=sync.sections,
            gate=bound,
        ),
    )
