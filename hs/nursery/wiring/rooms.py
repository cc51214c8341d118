"""The rooms: their stores on every process, and their writing end where this process has it."""

import attrs

from hs.nursery.foundation import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.repl.streams import CACHES, EVENTS
from hs.services.directory.aliases import Aliases
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.appender import RoomAppender
from hs.services.rooms.building import EventBuilder
from hs.services.rooms.canonical_aliases import AliasResolver, CanonicalAliasCheck
from hs.services.rooms.committer import Committer
from hs.services.rooms.create import RoomCreation
from hs.services.rooms.deciding import DecidingReader
from hs.services.rooms.event_store import EventStore
from hs.services.rooms.hot_rooms import HotRooms
from hs.services.rooms.limits import MembershipLimits
from hs.services.rooms.membership import RoomMembership
from hs.services.rooms.memberships import Memberships
from hs.services.rooms.naming import RoomNaming
from hs.services.rooms.relating import RelationChecks
from hs.services.rooms.remote_rooms import NoRemoteRooms
from hs.services.rooms.restricted import RestrictedJoins
from hs.services.rooms.send import Sending
from hs.services.rooms.sharded import ShardedAppender
from hs.services.rooms.state_store import StateStore
from hs.services.rooms.tails import Tails
from hs.services.rooms.txn_memory import TxnMemory
from hs.services.rooms.writer import RoomWriter
from hs.storage.chains import index_chains


@attrs.frozen(eq=False, kw_only=True)
class RoomActions:
    """What users do in rooms and to them."""

    creation: RoomCreation
    membership: RoomMembership
    sending: Sending
    aliases: Aliases
    public_rooms: PublicRooms
    naming: RoomNaming


@attrs.frozen(eq=False, kw_only=True)
class Rooms:
    """What other services need of the rooms; `committer` is None where no events are written."""

    events: EventStore
    states: StateStore
    memberships: Memberships
    tails: Tails
    appender: ShardedAppender
    committer: Committer | None


def wire_rooms(ground: Foundation) -> Rooms:
    """Build the rooms' services. Subscribers come in the order in which they depend."""
    events = EventStore(ground.database, ground.feed)
    states = StateStore(ground.database, ground.feed, events)
    server_name = ground.settings.server.server_name
    memberships = Memberships(ground.database, ground.feed, server_name)
    tails = Tails(ground.feed)
    committer, local = _writing_end(ground, events, states)
    appenders: dict[str, RoomAppender] = {}
    for instance in ground.ownership.writers(EVENTS):
        if instance == ground.plan.instance:
            assert local is not None
            appenders[instance] = local
        else:
            assert ground.remote is not None
            appenders[instance] = ground.remote.clients.proxy(RoomAppender, instance)
    return Rooms(
        events=events,
        states=states,
        memberships=memberships,
        tails=tails,
        appender=ShardedAppender(ground.ownership, appenders),
        committer=committer,
    )


def _writing_end(
    ground: Foundation, events: EventStore, states: StateStore
) -> tuple[Committer | None, RoomWriter | None]:
    if not ground.ownership.writes(EVENTS):
        return None, None
    committer = Committer(
        ground.table(EVENTS), states, ground.clock, ground.signer.server_name, index_chains
    )
    rooms = HotRooms(ground.database, events, states, committer)
    writer = RoomWriter(
        rooms,
        events,
        TxnMemory(ground.database),
        EventBuilder(ground.signer, ground.clock),
        lambda room_id: ground.ownership.is_mine(EVENTS, room_id),
    )
    if ground.remote is not None:
        ground.remote.server.register(RoomAppender, writer)
    return committer, writer


def wire_room_actions(ground: Foundation, rooms: Rooms, accounts: Accounts) -> RoomActions:
    """Build what changes rooms for users."""
    settings, database = ground.settings, ground.database
    server_name = settings.server.server_name
    remote = NoRemoteRooms()
    aliases = Aliases(database, server_name, settings.rooms, ground.clock)
    public_rooms = PublicRooms(database, settings.rooms)
    limits = MembershipLimits(settings.rate_limits, ground.clock)
    resolver = AliasResolver(aliases, remote)
    deciding = DecidingReader(rooms.states, rooms.events)
    membership = RoomMembership(
        appender=rooms.appender,
        deciding=deciding,
        memberships=rooms.memberships,
        restricted=RestrictedJoins(rooms.memberships),
        profiles=accounts.profiles,
        remote=remote,
        limits=limits,
        database=database,
        cache_drops=ground.memory(CACHES),
    )
    return RoomActions(
        creation=RoomCreation(
            appender=rooms.appender,
            aliases=aliases,
            public_rooms=public_rooms,
            profiles=accounts.profiles,
            remote=remote,
            limits=limits,
            settings=settings.rooms,
            server_name=server_name,
        ),
        membership=membership,
        sending=Sending(
            appender=rooms.appender,
            events=rooms.events,
            relations=RelationChecks(database, rooms.events),
            canonical_aliases=CanonicalAliasCheck(resolver, rooms.states),
            membership=membership,
        ),
        aliases=aliases,
        public_rooms=public_rooms,
        naming=RoomNaming(
            aliases=aliases,
            public_rooms=public_rooms,
            resolver=resolver,
            deciding=deciding,
            memberships=rooms.memberships,
            appender=rooms.appender,
            server_name=server_name,
        ),
    )
