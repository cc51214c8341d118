"""Rooms: their stores in every process, and the event writer where rooms are owned."""

from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from hs.core.streams import BACKFILL, EVENTS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.process_metrics import watch_committer
from hs.repl.feed import Interest
from hs.services.federation_client.key_ring import KeyRing
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.event_builder import EventBuilder
from hs.services.rooms.append.event_templates import EventTemplates, OwnedEventTemplates
from hs.services.rooms.append.hot_rooms import MAX_BYTES as HOT_BYTES
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.policy_servers import PolicyServerCheck, PolicyServers
from hs.services.rooms.append.room_writer import RoomWriter
from hs.services.rooms.append.sharded_appender import ShardedAppender
from hs.services.rooms.append.transaction_ids import TransactionIds
from hs.services.rooms.membership.deactivated_users import FINISH_PERIOD_S, RoomDepartures
from hs.services.rooms.receive.event_intake import OwnedRoomReceiver
from hs.services.rooms.receive.event_receiver import RoomReceiver
from hs.services.rooms.receive.outside_leave import OutsideLeaves
from hs.services.rooms.receive.outside_memberships import (
    OutsideMemberships,
    OwnedOutsideMemberships,
)
from hs.services.rooms.receive.pdu_checks import PduChecker
from hs.services.rooms.receive.received_room import RoomStores
from hs.services.rooms.receive.resolved_heads import ResolvedHeads
from hs.services.rooms.receive.withdrawals import InviteWithdrawals
from hs.services.rooms.retention.request_cleanup import CLEANUP_PERIOD_S, RoomCleanup
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.auth_state import AuthStateReader
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.recent_events import MAX_BYTES as TAIL_BYTES
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.rooms.store.room_servers import RoomServers
from hs.services.rooms.store.server_acls import ServerAcls
from hs.services.rooms.store.state_resolution import StateResolver
from hs.services.rooms.store.state_store import MAX_CURRENT_BYTES, MAX_SNAPSHOT_BYTES, StateStore
from hs.services.rooms.store.sticky_events import StickyEvents
from hs.storage.rooms.chain_cover import index_chains

BYTES_PER_EVENT: Final = 4 * 1024  # an event and what Python keeps for it


@attrs.frozen(eq=False, kw_only=True)
class RoomOwner:
    """The writing side of rooms, in a process that writes events."""

    committer: Committer
    history_committer: Committer
    hot: HotRooms
    writer: RoomWriter
    receiver: OwnedRoomReceiver
    templates: OwnedEventTemplates
    outside: OwnedOutsideMemberships


@attrs.frozen(eq=False, kw_only=True)
class Rooms:
    """The stores of rooms; `owner` is None in a process that writes no events."""

    events: EventStore
    states: StateStore
    memberships: Memberships
    servers: RoomServers
    tails: RecentEvents
    sticky: StickyEvents
    auth_states: AuthStateReader
    acls: ServerAcls
    appender: ShardedAppender
    receiver: RoomReceiver
    templates: EventTemplates
    outside: OutsideMemberships
    leaves: OutsideLeaves
    withdrawals: InviteWithdrawals
    graph: AuthGraph
    checker: PduChecker
    owner: RoomOwner | None
    departures: RoomDepartures
    cleanup: RoomCleanup
    part: Part


def wire_rooms(base: ProcessBase, keys: KeyRing, policies: PolicyServers) -> Rooms:
    """Build the stores of rooms; `keys` verify events of other servers.

    The stores subscribe to the feed in the order of their dependencies.
    """
    caches = base.settings.caches.caches
    events = _event_store(base)
    states = StateStore(
        base.database,
        base.feed,
        events,
        int(MAX_CURRENT_BYTES * caches.factor("current_state")),
        int(MAX_SNAPSHOT_BYTES * caches.factor("state_snapshots")),
    )
    memberships = Memberships(base.database, base.feed, base.settings.server.server_name)
    tails = RecentEvents(
        base.feed,
        int(TAIL_BYTES * caches.factor("tails")),
        follows=base.plan.answers_requests,
    )
    graph, checker = AuthGraph(base.database), PduChecker(keys)
    policy_check = PolicyServerCheck(memberships, policies)
    resolver = StateResolver(events, graph)
    owner = _owner(base, events, states, memberships, resolver, policy_check, checker)

    def owned() -> RoomOwner:
        assert owner is not None
        return owner

    appender_of = base.by_owner(RoomAppender, EVENTS, lambda: owned().writer)
    appender = ShardedAppender(base.ownership, appender_of, base.owner_calls(EVENTS))
    outside = base.sharded(OutsideMemberships, EVENTS, lambda: owned().outside)
    leaves = OutsideLeaves(events, outside, base.signer, base.clock)
    departures = RoomDepartures(base.database, appender, memberships, leaves)
    cleanup = RoomCleanup(base.database, base.clock)
    return Rooms(
        events=events,
        states=states,
        memberships=memberships,
        servers=RoomServers(base.database, base.feed, base.settings.server.server_name),
        tails=tails,
        sticky=StickyEvents(base.database, base.feed, base.clock),
        auth_states=AuthStateReader(states, events),
        acls=ServerAcls(states),
        appender=appender,
        receiver=base.sharded(RoomReceiver, EVENTS, lambda: owned().receiver),
        templates=base.sharded(EventTemplates, EVENTS, lambda: owned().templates),
        outside=outside,
        leaves=leaves,
        withdrawals=InviteWithdrawals(checker, events, memberships, outside),
        graph=graph,
        checker=checker,
        owner=owner,
        departures=departures,
        cleanup=cleanup,
        part=_part(owner, departures, cleanup),
    )


def _event_store(base: ProcessBase) -> EventStore:
    settings = base.settings.caches
    max_bytes = settings.event_cache_size * BYTES_PER_EVENT * settings.caches.factor("events")
    interest = base.interest_if_asked(Interest.OWN)
    return EventStore(base.database, base.feed, int(max_bytes), interest)


def _owner(
    base: ProcessBase,
    events: EventStore,
    states: StateStore,
    memberships: Memberships,
    resolver: StateResolver,
    policies: PolicyServerCheck,
    checker: PduChecker,
) -> RoomOwner | None:
    if not base.ownership.writes(EVENTS):
        return None
    committer, history_committer = (
        Committer(base.table(stream), states, base.clock, base.signer.server_name, index_chains)
        for stream in (EVENTS, BACKFILL)
    )
    hot_bytes = int(HOT_BYTES * base.settings.caches.caches.factor("hot_rooms"))
    hot = HotRooms(
        database=base.database,
        events=events,
        states=states,
        committer=committer,
        history_committer=history_committer,
        max_bytes=hot_bytes,
        check_owner=_owner_check(base),
    )
    transactions = TransactionIds(base.database)
    _follow_slots(base, hot, transactions)
    builder = EventBuilder(base.signer, base.clock)
    stores = RoomStores(
        database=base.database,
        rooms=hot,
        events=events,
        states=states,
        resolver=resolver,
        server_name=base.signer.server_name,
    )
    forks = ResolvedHeads(stores)
    writer = RoomWriter(
        hot,
        events,
        transactions,
        builder,
        lambda room_id: base.ownership.is_mine(EVENTS, room_id),
        policies=policies,
        forks=forks,
    )
    return RoomOwner(
        committer=committer,
        history_committer=history_committer,
        hot=hot,
        writer=writer,
        receiver=OwnedRoomReceiver(checker, stores, memberships.is_local, policies=policies),
        templates=OwnedEventTemplates(hot, events, builder, policies, forks),
        outside=OwnedOutsideMemberships(base.database, memberships, hot, committer),
    )


def _owner_check(base: ProcessBase) -> Callable[[str], None]:
    """Return what raises NotOwner for a room that this process may not write."""
    table = base.ownership.slots
    return _own_all if table is None else partial(table.check, EVENTS.name)


def _own_all(room_id: str) -> None:
    pass


def _follow_slots(base: ProcessBase, hot: HotRooms, transactions: TransactionIds) -> None:
    """Drop rooms that this process loses, finish them before it gives them away.

    Of rooms that it gains, it does not know the transaction IDs.
    """
    table = base.ownership.slots
    if table is None:
        return

    def drop(stream: str, matches: Callable[[str], bool]) -> None:
        if stream == EVENTS.name:
            hot.drop(matches)

    def gain(stream: str, matches: Callable[[str], bool]) -> None:
        if stream == EVENTS.name:
            transactions.note_gain()

    table.on_lost.append(drop)
    table.on_gained.append(gain)
    table.unfinished[EVENTS.name] = hot.has_unfinished


def _part(owner: RoomOwner | None, departures: RoomDepartures, cleanup: RoomCleanup) -> Part:
    return Part(
        runners=[]
        if owner is None
        else [
            ("committer", owner.committer.run),
            ("history committer", owner.history_committer.run),
        ],
        duties=[
            Duty("departures", departures.run),
            Duty(
                "transaction ID cleanup",
                cleanup.delete_old_transaction_ids,
                plan_duty=BACKGROUND,
                period_s=CLEANUP_PERIOD_S,
                at_start=False,
            ),
            Duty(
                "sticky event cleanup",
                cleanup.delete_expired_sticky_events,
                plan_duty=BACKGROUND,
                period_s=CLEANUP_PERIOD_S,
                at_start=False,
            ),
            Duty(
                "deactivated users in rooms",
                departures.finish_others,
                plan_duty=BACKGROUND,
                period_s=FINISH_PERIOD_S,
            ),
        ],
        metrics=[] if owner is None else [partial(watch_committer, committer=owner.committer)],
    )
