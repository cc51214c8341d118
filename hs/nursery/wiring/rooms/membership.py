"""Membership of rooms: what users do, and what the server does by itself."""

from functools import partial

import attrs

from hs.apis.client.rooms.membership import MembershipApi
from hs.core.ids import UserID
from hs.core.streams import CACHES, EVENTS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.accounts.threepid_servers import ThreepidServers
from hs.nursery.wiring.rooms.aliases import AliasServices
from hs.nursery.wiring.rooms.profiles import ProfileServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.accounts.limits.rate_limits import bucket_of
from hs.services.rooms.membership.auto_accept_invites import AutoAcceptDuty
from hs.services.rooms.membership.forget_on_leave import ForgetOnLeaveDuty
from hs.services.rooms.membership.guest_removal import GuestRemovalDuty
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.member_events import MemberEvents
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.membership.removal_with_redaction import RemovalWithRedaction
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.membership.room_joins import RoomJoins
from hs.services.rooms.membership.room_succession import RoomPushRules, RoomSuccession
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites
from hs.settings.sections.workers import process_name
from hs.settings.settings import Settings


@attrs.frozen(eq=False, kw_only=True)
class MembershipDuties:
    """Changes of memberships by the server itself; None where this process does not make them."""

    guest_removal: GuestRemovalDuty | None
    forget_on_leave: ForgetOnLeaveDuty | None
    auto_accept: AutoAcceptDuty | None


@attrs.frozen(eq=False, kw_only=True)
class MembershipServices:
    """Membership, and the rules and limits that creating and upgrading rooms obey as well."""

    joins: RoomJoins
    membership: RoomMembership
    limits: MembershipLimits
    invites: InvitePermissions
    policy: MemberPolicy
    succession: RoomSuccession
    third_party_invites: ThirdPartyInvites
    duties: MembershipDuties
    part: Part


def wire_membership(
    base: ProcessBase,
    rooms: Rooms,
    remote: RemoteRooms,
    accounts: AccountServices,
    profiles: ProfileServices,
    aliases: AliasServices,
    rules: RoomPushRules,
    servers: ThreepidServers,
) -> MembershipServices:
    """Build membership; `rules` are the push rules, which follow a user to an upgraded room."""
    settings = base.settings
    limits = MembershipLimits(settings.rate_limits, base.clock, base.limiters)
    invites = InvitePermissions(accounts.account_data)
    succession = RoomSuccession(
        rooms.memberships, rooms.auth_states, aliases.aliases, accounts.account_data, rules
    )
    policy = MemberPolicy(settings.rooms, notices_user_of(settings), profiles.avatars)
    events = _member_events(base, rooms, accounts)
    joins = RoomJoins(
        events=events,
        auth_states=rooms.auth_states,
        memberships=rooms.memberships,
        restricted=RestrictedJoins(rooms.memberships),
        remote=remote,
        succession=succession,
        limits=limits,
        policy=policy,
        rechecks=base.rechecks,
    )
    membership = RoomMembership(
        joins=joins,
        events=events,
        auth_states=rooms.auth_states,
        memberships=rooms.memberships,
        profiles=accounts.profiles,
        remote=remote,
        limits=limits,
        invites=invites,
        database=base.database,
        cache_drops=base.memory(CACHES),
        policy=policy,
        rechecks=base.rechecks,
    )
    offers = _third_party_invites(base, rooms, servers, membership)
    removal = RemovalWithRedaction(base.database, rooms.events, rooms.appender, membership)
    endpoints = [MembershipApi(joins, membership, aliases.naming, removal, offers)]
    duties = _duties(base, rooms, accounts, joins)
    return MembershipServices(
        joins=joins,
        membership=membership,
        limits=limits,
        invites=invites,
        policy=policy,
        succession=succession,
        third_party_invites=offers,
        duties=duties,
        part=Part(endpoints=endpoints, duties=_list_of(duties)),
    )


def _member_events(base: ProcessBase, rooms: Rooms, accounts: AccountServices) -> MemberEvents:
    return MemberEvents(
        appender=rooms.appender,
        auth_states=rooms.auth_states,
        memberships=rooms.memberships,
        profiles=accounts.profiles,
        owns=partial(base.ownership.is_mine, EVENTS),
    )


def _third_party_invites(
    base: ProcessBase, rooms: Rooms, servers: ThreepidServers, membership: RoomMembership
) -> ThirdPartyInvites:
    limit = bucket_of(base.settings.rate_limits.rc_third_party_invite)
    return ThirdPartyInvites(
        servers=servers.identity_servers,
        appender=rooms.appender,
        auth_states=rooms.auth_states,
        membership=membership,
        limiter=base.limiters("third_party_invite", limit),
        looks_up=base.settings.lookups.enable_3pid_lookup,
    )


def _duties(
    base: ProcessBase, rooms: Rooms, accounts: AccountServices, joins: RoomJoins
) -> MembershipDuties:
    return MembershipDuties(
        guest_removal=_guest_removal(base, rooms),
        forget_on_leave=_forget_on_leave(base, rooms),
        auto_accept=_auto_accept(base, rooms, accounts, joins),
    )


def notices_user_of(settings: Settings) -> UserID | None:
    """Return the user who sends server notices, or None if there are none."""
    localpart = settings.server_notices.system_mxid_localpart
    return None if not localpart else UserID(f"@{localpart}:{settings.server.server_name}")


def _list_of(duties: MembershipDuties) -> list[Duty]:
    found: list[Duty] = []
    if duties.guest_removal is not None:
        found.append(Duty("guest removal", duties.guest_removal.run))
    if duties.forget_on_leave is not None:
        found.append(Duty("forget rooms on leave", duties.forget_on_leave.run))
    if duties.auto_accept is not None:
        found.append(Duty("invite auto-accept", duties.auto_accept.run))
    return found


def _guest_removal(base: ProcessBase, rooms: Rooms) -> GuestRemovalDuty | None:
    if not base.ownership.writes(EVENTS):
        return None
    return GuestRemovalDuty(
        base.database,
        base.feed,
        rooms.appender,
        rooms.auth_states,
        rooms.memberships,
        owns=lambda room_id: base.ownership.is_assigned(EVENTS, room_id),
    )


def _forget_on_leave(base: ProcessBase, rooms: Rooms) -> ForgetOnLeaveDuty | None:
    if not base.ownership.writes(EVENTS) or not base.settings.rooms.forget_rooms_on_leave:
        return None
    return ForgetOnLeaveDuty(
        base.database,
        base.feed,
        base.memory(CACHES),
        rooms.memberships.is_local,
        lambda room_id: base.ownership.is_assigned(EVENTS, room_id),
    )


def _auto_accept(
    base: ProcessBase, rooms: Rooms, accounts: AccountServices, joins: RoomJoins
) -> AutoAcceptDuty | None:
    if not _accepts_invites(base):
        return None
    return AutoAcceptDuty(
        settings=base.settings.auto_accept,
        feed=base.feed,
        events=rooms.events,
        memberships=rooms.memberships,
        joins=joins,
        own_data=accounts.account_data,
    )


def _accepts_invites(base: ProcessBase) -> bool:
    settings = base.settings.auto_accept
    if not settings.enabled:
        return False
    if settings.worker_to_run_on:
        return process_name(settings.worker_to_run_on) == base.plan.instance
    return BACKGROUND in base.plan.duties
