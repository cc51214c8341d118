"""What users do in rooms and to them."""

import attrs

from hs.lib.tasks import Duty
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.delayed_events import Delayed, wire_delayed
from hs.nursery.wiring.notices_user import notices_user_of
from hs.nursery.wiring.rooms import Rooms
from hs.repl.streams import CACHES, EVENTS
from hs.services.accounts.profiles.avatar_rules import AvatarRules
from hs.services.accounts.profiles.profile_changes import ProfileChanges
from hs.services.directory.aliases import Aliases, AliasNamespaces
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.canonical_aliases import AliasResolver, CanonicalAliasCheck
from hs.services.rooms.aliases.room_aliases import RoomNaming
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.creation.room_creation import RoomCreation
from hs.services.rooms.creation.room_upgrade import RoomUpgrade
from hs.services.rooms.creation.upgrade_lock import UpgradeTurns
from hs.services.rooms.membership.guest_removal import GuestExpulsion
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import NoRemoteRooms
from hs.services.rooms.membership.removal_with_redaction import Removal
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.membership.room_succession import RoomRules, Succession
from hs.services.rooms.profiles.profile_propagation import RoomProfiles
from hs.services.rooms.sending.event_sending import Sending
from hs.services.rooms.sending.relation_checks import RelationChecks
from hs.services.rooms.store.auth_state import DecidingReader


@attrs.frozen(eq=False, kw_only=True)
class RoomActions:
    """The services that change rooms; `duties` run in this process, `chores` in one of all."""

    creation: RoomCreation
    membership: RoomMembership
    sending: Sending
    removal: Removal
    delayed: Delayed
    public_rooms: PublicRooms
    naming: RoomNaming
    upgrades: RoomUpgrade
    profile_changes: ProfileChanges
    duties: list[Duty]
    chores: list[Duty]


def wire_actions(
    ground: Foundation,
    rooms: Rooms,
    accounts: Accounts,
    rules: RoomRules,
    namespaces: AliasNamespaces,
) -> RoomActions:
    """Build what changes rooms for users."""
    settings, database, appender = ground.settings, ground.database, rooms.appender
    remote = NoRemoteRooms()
    aliases = Aliases(
        database,
        settings.server.server_name,
        settings.rooms,
        ground.clock,
        namespaces,
    )
    public_rooms = PublicRooms(database, settings.rooms)
    limits = MembershipLimits(settings.rate_limits, ground.clock, ground.limiters)
    deciding = DecidingReader(rooms.states, rooms.events)
    invites = InvitePermissions(accounts.account_data)
    resolver = AliasResolver(aliases, remote)
    succession = Succession(rooms.memberships, accounts.account_data, rules)
    avatars = AvatarRules(
        database,
        settings.server.server_name,
        settings.rooms.max_avatar_size,
        settings.rooms.allowed_avatar_mimetypes,
    )
    membership = RoomMembership(
        appender=appender,
        deciding=deciding,
        memberships=rooms.memberships,
        restricted=RestrictedJoins(rooms.memberships),
        profiles=accounts.profiles,
        remote=remote,
        succession=succession,
        limits=limits,
        invites=invites,
        database=database,
        cache_drops=ground.memory(CACHES),
        policy=MemberPolicy(settings.rooms, notices_user_of(settings), avatars),
    )
    sending = _sending(ground, rooms, resolver, membership)
    return RoomActions(
        creation=_creation(ground, rooms, accounts, aliases, public_rooms, membership),
        membership=membership,
        sending=sending,
        removal=Removal(database, rooms.events, appender, membership),
        delayed=wire_delayed(ground, accounts, sending),
        public_rooms=public_rooms,
        naming=_naming(ground, rooms, aliases, public_rooms, resolver, deciding),
        upgrades=_upgrades(ground, rooms, accounts, deciding, aliases, succession),
        profile_changes=ProfileChanges(accounts.profiles, avatars),
        duties=_guests(ground, rooms, deciding),
        chores=_profiles_in_rooms(ground, appender),
    )


def _creation(
    ground: Foundation,
    rooms: Rooms,
    accounts: Accounts,
    aliases: Aliases,
    public_rooms: PublicRooms,
    membership: RoomMembership,
) -> RoomCreation:
    return RoomCreation(
        appender=rooms.appender,
        aliases=aliases,
        public_rooms=public_rooms,
        profiles=accounts.profiles,
        remote=membership.remote,
        limits=membership.limits,
        invites=membership.invites,
        settings=ground.settings.rooms,
        server_name=ground.settings.server.server_name,
    )


def _naming(
    ground: Foundation,
    rooms: Rooms,
    aliases: Aliases,
    public_rooms: PublicRooms,
    resolver: AliasResolver,
    deciding: DecidingReader,
) -> RoomNaming:
    settings = ground.settings
    return RoomNaming(
        aliases=aliases,
        public_rooms=public_rooms,
        resolver=resolver,
        deciding=deciding,
        memberships=rooms.memberships,
        appender=rooms.appender,
        server_name=settings.server.server_name,
        members_only=settings.rooms.require_membership_for_aliases,
    )


def _sending(
    ground: Foundation, rooms: Rooms, resolver: AliasResolver, membership: RoomMembership
) -> Sending:
    return Sending(
        appender=rooms.appender,
        events=rooms.events,
        relations=RelationChecks(ground.database, rooms.events),
        canonical_aliases=CanonicalAliasCheck(resolver, rooms.states),
        membership=membership,
    )


def _guests(ground: Foundation, rooms: Rooms, deciding: DecidingReader) -> list[Duty]:
    if not ground.ownership.writes(EVENTS):
        return []
    expulsion = GuestExpulsion(
        ground.database,
        ground.feed,
        rooms.appender,
        deciding,
        rooms.memberships,
        lambda room_id: ground.ownership.is_mine(EVENTS, room_id),
    )
    return [Duty("guests leave closed rooms", expulsion.run)]


def _profiles_in_rooms(ground: Foundation, appender: RoomAppender) -> list[Duty]:
    if BACKGROUND not in ground.plan.duties:
        return []
    return [Duty("profiles in rooms", RoomProfiles(ground.database, ground.feed, appender).run)]


def _upgrades(
    ground: Foundation,
    rooms: Rooms,
    accounts: Accounts,
    deciding: DecidingReader,
    aliases: Aliases,
    succession: Succession,
) -> RoomUpgrade:
    return RoomUpgrade(
        appender=rooms.appender,
        deciding=deciding,
        states=rooms.states,
        events=rooms.events,
        aliases=aliases,
        profiles=accounts.profiles,
        succession=succession,
        database=ground.database,
        turns=UpgradeTurns(ground.leases),
    )
