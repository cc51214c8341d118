"""Construction of the sync services from the room readers and the other services."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import attrs

from hs.core.ids import RoomID
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.store.replaced_state import PreviousStates
from hs.services.sync.account_data_section import Accounts, PresenceSection
from hs.services.sync.compiled_filters import Plans
from hs.services.sync.event_stream import EventStream
from hs.services.sync.initial_sync import InitialSync
from hs.services.sync.lazy_members import LazyMembers
from hs.services.sync.notifier import Notifier
from hs.services.sync.positions import Positions
from hs.services.sync.response_cache import Answers
from hs.services.sync.room_ephemeral import RoomExtras
from hs.services.sync.room_readers import RoomReaders as RoomReaders
from hs.services.sync.room_selection import RoomTurns
from hs.services.sync.room_summary import Summaries
from hs.services.sync.rooms_section import RoomSections
from hs.services.sync.sources import (
    AccountData,
    Extension,
    Filters,
    Presence,
    PushRuleDocuments,
    Receipts,
    Typing,
    UnreadCounts,
)
from hs.services.sync.state_section import RoomStates
from hs.services.sync.sync_service import Sections, SyncService
from hs.services.sync.timeline_range import Windows
from hs.services.sync.timeline_section import RoomTimelines


@attrs.frozen(eq=False)
class Sources:
    """The interfaces of other services that sync reads from."""

    account_data: AccountData
    push_rules: PushRuleDocuments
    filters: Filters
    receipts: Receipts
    typing: Typing
    presence: Presence
    counts: UnreadCounts
    extensions: Sequence[Extension] = ()


def make_sync(
    rooms: RoomReaders,
    sources: Sources,
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
    previous = PreviousStates(rooms.database, events, states)
    sections = Sections(
        RoomTurns(
            rooms.database,
            feed,
            rooms.tails,
            events,
            states,
            rooms.visibility,
            sources.account_data,
            excluded,
        ),
        RoomSections(
            Windows(rooms.database, rooms.tails, events),
            RoomTimelines(events, states, rooms.visibility, rooms.rendering),
            RoomStates(
                rooms.database, rooms.tails, events, states, previous, rooms.visibility.stays
            ),
            Summaries(events, states, rooms.memberships, previous),
            rooms.stripped,
            sources.counts,
            events,
            rooms.rendering,
        ),
        RoomExtras(feed, sources.receipts, sources.typing),
        Accounts(feed, sources.account_data, sources.push_rules),
        PresenceSection(feed, sources.presence, rooms.memberships, rooms.tails, without_presence),
        sources.extensions,
    )
    return SyncService(
        Positions(feed),
        notifier,
        rooms.memberships,
        rooms.visibility,
        rooms.rendering,
        Plans(sources.filters, max_timeline),
        LazyMembers(),
        sources.presence,
        sections,
        Answers(kept_for_ms),
        nullcontext() if gate is None else gate,
    )


@attrs.frozen(eq=False)
class OldSync:
    """The services of the deprecated endpoints `/events` and `/initialSync`."""

    stream: EventStream
    initial: InitialSync


def make_old_sync(
    rooms: RoomReaders,
    sources: Sources,
    notifier: Notifier,
    sync: SyncService,
    snapshots: RoomSnapshots,
    *,
    gate: AbstractAsyncContextManager[None] | None = None,
) -> OldSync:
    """Build the deprecated services from the sections of the `/sync` service."""
    positions = Positions(rooms.feed)
    showing = Showing(rooms.visibility, rooms.rendering)
    bound = nullcontext() if gate is None else gate
    return OldSync(
        EventStream(rooms, positions, notifier, sources.presence, showing, sync.sections, bound),
        InitialSync(
            rooms,
            positions,
            sources.receipts,
            sources.presence,
            snapshots,
            showing,
            sync.sections,
            bound,
        ),
    )
