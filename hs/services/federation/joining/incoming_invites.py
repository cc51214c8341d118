"""Invites of local users by other servers.

Spec: server-server API, Inviting to a room.
"""

from collections.abc import Sequence
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import (
    Forbidden,
    IncompatibleRoomVersion,
    InvalidParam,
    NotFound,
    UnsupportedRoomVersion,
)
from hs.core.events import event_types
from hs.core.events.build import countersign
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.signing.keys import Signer
from hs.core.versions import RoomVersion, room_version
from hs.services.accounts.limits.appservice_users import UserQueries
from hs.services.federation.access.event_admission import EventAdmission
from hs.services.federation.joining.room_access import HandshakeAccess
from hs.services.federation.joining.signed_events import ExpectedEvent, parse_submitted
from hs.services.federation.joining.stripped_states import MAX_ENTRIES, StrippedStates
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.receive.outside_memberships import OutsideMembership, OutsideMemberships
from hs.services.rooms.receive.pdu_checks import PduChecker, RefusedPdu
from hs.services.rooms.store.auth_state import AuthState
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.rooms import RoomSettings
from hs.storage.accounts import users
from hs.storage.database import Database


@attrs.frozen
class InviteRequest:
    """An invite as another server sends it; nothing in it has been checked."""

    room_id: RoomID
    event_id: EventID
    room_version: str
    event: JsonObject
    room_state: Sequence[Any]


@attrs.frozen(eq=False, kw_only=True)
class IncomingInvites:
    """Checks, signs and stores invites."""

    signer: Signer
    database: Database
    settings: RoomSettings
    access: HandshakeAccess
    memberships: Memberships
    checker: PduChecker
    stripped: StrippedStates
    permissions: InvitePermissions
    limits: MembershipLimits
    queries: UserQueries
    outside: OutsideMemberships
    admission: EventAdmission

    async def receive(self, origin: ServerName, request: InviteRequest) -> Event:
        """Return the invite, signed by this server as well.

        Raises: BadJson, InvalidParam, MissingParam, Forbidden, InviteBlocked, NotFound,
            IncompatibleRoomVersion, LimitExceeded.
        """
        entries = (request.event, *request.room_state[:MAX_ENTRIES])
        return await self.admission.run([entries], lambda _: self._receive(origin, request))

    async def _receive(self, origin: ServerName, request: InviteRequest) -> Event:
        rules = _rules_of(request.room_version)
        room = await self._room(origin, request.room_id, rules)
        event, target = await self._checked_event(origin, request, rules)
        await self._check_target(UserID(event.sender), target)
        self.limits.check_remote_invite(request.room_id, target)
        signed = countersign(event, self.signer)
        if room is None:
            state = await self.stripped.check_invite(request.room_id, rules, request.room_state)
            membership = OutsideMembership(request.room_version, signed.canonical, state)
            await self.outside.store(request.room_id, membership)
        # In a room that this server is in, the invite arrives with the room's other events.
        return signed

    async def _room(
        self, origin: ServerName, room_id: RoomID, rules: RoomVersion
    ) -> AuthState | None:
        """Return the room if this server is in it. Raises: Forbidden, InvalidParam."""
        if not await self.access.is_here(room_id):
            return None
        room = await self.access.open(origin, room_id)
        if room.rules is not rules:
            raise InvalidParam("room_version is not the version of the room")
        return room

    async def _checked_event(
        self, origin: ServerName, request: InviteRequest, rules: RoomVersion
    ) -> tuple[Event, UserID]:
        expected = ExpectedEvent(request.room_id, request.event_id, event_types.INVITE)
        event = parse_submitted(origin, request.event, rules, expected)
        if event.state_key is None or not self.memberships.is_local(event.state_key):
            raise InvalidParam("The state_key of the event must be a user of this server")
        (checked,) = await self.checker.check(request.room_id, rules, [event.canonical])
        if isinstance(checked, RefusedPdu):
            raise InvalidParam(f"The event is not valid: {checked.reason}")
        if checked.canonical != event.canonical:
            raise InvalidParam("The content hash of the event is wrong")
        return event, UserID(event.state_key)

    async def _check_target(self, inviter: UserID, target: UserID) -> None:
        if self.settings.block_non_admin_invites:
            raise Forbidden("This server does not accept invites")
        user = await self.database.read(users.find_user, target)
        if user is None and await self.queries.query_user(target):
            user = await self.database.read(users.find_user, target)
        if user is None:
            raise NotFound("The invited user does not exist")
        if user.is_deactivated:
            raise Forbidden("The invited user's account is deactivated")
        await self.permissions.check(inviter, target)


def _rules_of(version: str) -> RoomVersion:
    try:
        return room_version(version)
    except UnsupportedRoomVersion:
        raise IncompatibleRoomVersion(
            "This server does not support the version of the room", room_version=version
        ) from None
