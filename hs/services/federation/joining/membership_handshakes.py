"""Joins, knocks and leaves of users of other servers, through this server.

Rules:

- A server changes the memberships of its own users only, and only in rooms that this server is in.
- A restricted join is authorised twice: when the template is built, and when the signed event
  arrives, as the room may have changed. Only then does this server sign it.
- An accepted event is sent on to all servers in the room.

Spec: server-server API, Joining Rooms, Restricted rooms, Knocking upon a room, Leaving Rooms.
"""

from collections.abc import Collection
from typing import Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, IncompatibleRoomVersion, InvalidParam
from hs.core.events import event_types
from hs.core.events.build import countersign
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName, UserID, is_user_id, server_of
from hs.core.signing.keys import Signer
from hs.services.federation.joining.room_access import HandshakeAccess
from hs.services.federation.joining.signed_events import ExpectedEvent, parse_submitted
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.event_templates import BuiltEvent, EventTemplates
from hs.services.rooms.membership.member_events import AUTHORISER
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.receive.event_receiver import PduOutcome, PduVerdict, RoomReceiver
from hs.services.rooms.store.auth_state import AuthState
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import EventStatus, StoredEvent

_CHECKED_MEMBERSHIPS: Final = (event_types.JOIN, event_types.INVITE)


@attrs.frozen(eq=False, kw_only=True)
class MembershipHandshakes:
    """Serves make_join and send_join, and the same requests for knocks and leaves."""

    signer: Signer
    access: HandshakeAccess
    templates: EventTemplates
    receiver: RoomReceiver
    restricted: RestrictedJoins
    events: EventStore

    async def make(
        self,
        origin: ServerName,
        membership: str,
        room_id: RoomID,
        user_id: UserID,
        versions: Collection[str] | None = None,
    ) -> BuiltEvent:
        """Return the template of a member event; `versions` are those that the origin supports.

        Raises: Forbidden, NotFound, IncompatibleRoomVersion, UnableToAuthoriseJoin,
            UnableToGrantJoin.
        """
        if server_of(user_id) != origin:
            raise Forbidden("The user does not belong to your server")
        room = await self.access.open(origin, room_id, (user_id,))
        version = room.rules.identifier
        if versions is not None and version not in versions:
            raise IncompatibleRoomVersion(
                "Your homeserver does not support the version of the room", room_version=version
            )
        content: JsonObject = {"membership": membership}
        if membership == event_types.JOIN:
            authoriser = await self.restricted.authoriser_for(user_id, room)
            if authoriser is not None:
                content[AUTHORISER] = authoriser
        draft = Draft(event_types.MEMBER, user_id, content, user_id)
        return await self.templates.template(room_id, draft)

    async def send(
        self,
        origin: ServerName,
        membership: str,
        room_id: RoomID,
        event_id: EventID,
        pdu: JsonObject,
    ) -> StoredEvent:
        """Receive a signed member event and return it as stored.

        Raises: BadJson, InvalidParam, Forbidden, NotFound, UnableToAuthoriseJoin.
        """
        sender = pdu.get("sender")
        members = (UserID(str(sender)),) if is_user_id(sender) else ()
        room = await self.access.open(origin, room_id, members)
        expected = ExpectedEvent(room_id, event_id, membership)
        event = parse_submitted(origin, pdu, room.rules, expected)
        if event.state_key != event.sender:
            raise InvalidParam("The state_key of the event must be its sender")
        event = await self._authorised(event, room)
        result = await self.receiver.receive(room_id, [event.canonical], [], {}, relay=True)
        return await self._stored(event, result.verdicts[0])

    async def _authorised(self, event: Event, room: AuthState) -> Event:
        """Return the event, signed if a user of this server authorises it."""
        authoriser = event.content.get(AUTHORISER)
        if not room.rules.restricted_joins or not is_user_id(authoriser):
            return event
        if server_of(UserID(str(authoriser))) != self.signer.server_name:
            return event
        user_id = UserID(event.sender)
        if room.membership(user_id) not in _CHECKED_MEMBERSHIPS:
            await self.restricted.check_allowed(user_id, room)
        return countersign(event, self.signer)

    async def _stored(self, event: Event, verdict: PduVerdict) -> StoredEvent:
        if verdict.outcome is PduOutcome.REFUSED:
            raise InvalidParam(f"The event is not valid: {verdict.reason}")
        if verdict.outcome is PduOutcome.WAITING:
            raise InvalidParam("The event cites events that this server does not know")
        stored = await self.events.get_one(event.event_id)
        if stored is None or stored.status != EventStatus.ACCEPTED or stored.snapshot_id is None:
            raise Forbidden(verdict.reason or "The room does not allow the event")
        return stored
