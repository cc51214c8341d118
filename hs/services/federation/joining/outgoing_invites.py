"""Invites to and from users of other servers in rooms of this server.

The invite is built at the end of the room, signed by the server of the invited user, and then
received like an event of another server: others may have been appended meanwhile.

Spec: server-server API, Inviting to a room.
"""

from typing import Final

import attrs
import orjson

from hs.core.errors import (
    BadJson,
    Forbidden,
    InvalidEvent,
    InvalidEventJson,
    InvalidSignature,
    MatrixError,
    NotFound,
    RemoteFault,
)
from hs.core.events.build import with_signatures
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.events.signatures import check_event_signature
from hs.core.ids import RoomID, ServerName, UserID, server_of
from hs.core.signing.signed_json import key_ids_of
from hs.core.versions import RoomVersion, room_version
from hs.services.federation.joining.candidates import error_for_client
from hs.services.federation.joining.stripped_states import StrippedStates
from hs.services.federation.requests.membership import send_invite
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.key_ring import KeyRing, VerifyKeyRequest
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.event_templates import EventTemplates
from hs.services.rooms.receive.event_receiver import PduOutcome, RoomReceiver

_STORED: Final = (PduOutcome.ACCEPTED, PduOutcome.KNOWN)


@attrs.frozen(eq=False, kw_only=True)
class OutgoingInvites:
    """Invites users of other servers, and local users for them."""

    client: FederationClient
    keys: KeyRing
    templates: EventTemplates
    receiver: RoomReceiver
    stripped: StrippedStates

    async def invite(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a user of another server. Raises: MatrixError, RemoteFault."""
        target = UserID(draft.state_key or "")
        server = server_of(target)
        try:
            built = await self.templates.signed(room_id, draft)
        except NotFound as error:
            raise Forbidden("You are not in this room") from error
        if built.existing is not None:
            return
        event = parse_pdu(orjson.loads(built.pdu), room_version(built.room_version))
        state = await self.stripped.of_room(room_id, draft.sender)
        try:
            response = await send_invite(self.client, server, event, state)
        except RemoteFault as fault:
            raise error_for_client(fault) from fault
        _check_json(server, response, event.rules)
        signed = await self._with_signature(server, event, response)
        await self._receive(room_id, signed.canonical)

    async def invite_for(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a local user by a third-party invite of a user of another server.

        Such an invite needs no signature of the inviter's server, and is sent to it from here.
        Raises: MatrixError.
        """
        built = await self.templates.signed(room_id, draft)
        await self._receive(room_id, built.pdu, relay=True)

    async def _receive(self, room_id: RoomID, pdu: bytes, *, relay: bool = False) -> None:
        result = await self.receiver.receive(room_id, [pdu], [], {}, relay=relay)
        verdict = result.verdicts[0]
        if verdict.outcome not in _STORED:
            raise Forbidden(verdict.reason or "The room does not allow the invite")

    async def _with_signature(
        self, server: ServerName, event: Event, response: dict[str, object]
    ) -> Event:
        """Return the event with the signatures of the invited user's server, which are verified."""
        key_ids = key_ids_of(response, server)
        signatures = response.get("signatures")
        if not key_ids or not isinstance(signatures, dict):
            raise RemoteFault(server, "it did not sign the invite", retry=False)
        own = event.pdu["signatures"]
        theirs = {key_id: signatures[server][key_id] for key_id in key_ids}
        try:
            signed = with_signatures(event, {**own, server: theirs})
            need = VerifyKeyRequest(server, frozenset(key_ids), event.origin_server_ts)
            keys = await self.keys.keys_for([need])
            check_event_signature(signed, server, keys.get(need, {}))
        except (InvalidSignature, InvalidEvent, MatrixError) as fault:
            raise RemoteFault(
                server, f"its signature of the invite is not valid: {fault}", retry=False
            ) from None
        return signed


def _check_json(server: ServerName, response: dict[str, object], rules: RoomVersion) -> None:
    """Raise BadJson if a server answered with JSON that the room version forbids.

    Spec: room version 6, Canonical JSON.
    """
    try:
        parse_pdu(response, rules)
    except InvalidEventJson as fault:
        raise BadJson(f"{server} answered with an invalid event: {fault}") from None
    except InvalidEvent:
        pass  # Only its signatures are taken from the response.
