"""Member events that this server signs from templates of other servers.

Spec: server-server API, Joining Rooms: the fields of a template that must be checked.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidEvent, MatrixError, RemoteFault, UnsupportedRoomVersion
from hs.core.events import event_types
from hs.core.events.build import sign_template
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName, UserID, is_user_id
from hs.core.signing.keys import Signer
from hs.core.versions import RoomVersion, room_version
from hs.lib.clock import Clock
from hs.services.federation.requests.membership import EventTemplate
from hs.services.rooms.append.event_builder import random_opaque
from hs.services.rooms.membership.member_events import AUTHORISER

_FROM_TEMPLATE: Final = ("depth", "prev_events", "auth_events")


@attrs.frozen
class ExpectedMember:
    """The member event that a template must be for; `content` is set by this server."""

    room_id: RoomID
    user_id: UserID
    content: Mapping[str, Any]

    @property
    def membership(self) -> str:
        """The membership of the event."""
        return str(self.content["membership"])


@attrs.frozen(eq=False)
class TemplateSigner:
    """Builds and signs events from templates."""

    signer: Signer
    clock: Clock

    def sign(self, server: ServerName, template: EventTemplate, expected: ExpectedMember) -> Event:
        """Return the signed event.

        Only its place in the room's graph and the user who authorises a join are taken from the
        template. Raises: RemoteFault.
        """
        rules = _rules_of(server, template.room_version)
        event = template.event
        _check(server, event, expected)
        content = dict(expected.content)
        authoriser = event["content"].get(AUTHORISER)
        if rules.restricted_joins and authoriser is not None:
            if not is_user_id(authoriser) or expected.membership != event_types.JOIN:
                raise _wrong(server, f"content.{AUTHORISER}")
            content[AUTHORISER] = authoriser
        pdu: JsonObject = {
            **{field: event[field] for field in _FROM_TEMPLATE if field in event},
            "type": event_types.MEMBER,
            "room_id": expected.room_id,
            "sender": expected.user_id,
            "state_key": expected.user_id,
            "content": content,
            "origin_server_ts": self.clock.now_ms(),
            **self._legacy_fields(rules),
        }
        try:
            return sign_template(pdu, rules, self.signer)
        except (InvalidEvent, MatrixError) as fault:
            raise RemoteFault(
                server, f"its template is not a valid event: {fault}", retry=False
            ) from None

    def _legacy_fields(self, rules: RoomVersion) -> JsonObject:
        if rules.event_id_is_hash:
            return {}
        name = self.signer.server_name
        return {"event_id": EventID(f"${random_opaque()}:{name}"), "origin": name}


def _check(server: ServerName, event: JsonObject, expected: ExpectedMember) -> None:
    content = event.get("content")
    if not isinstance(content, dict):
        raise _wrong(server, "content")
    fields = {
        "type": event_types.MEMBER,
        "room_id": expected.room_id,
        "sender": expected.user_id,
        "state_key": expected.user_id,
    }
    for field, value in fields.items():
        if event.get(field) != value:
            raise _wrong(server, field)
    if content.get("membership") != expected.membership:
        raise _wrong(server, "content.membership")


def _rules_of(server: ServerName, version: str) -> RoomVersion:
    try:
        return room_version(version)
    except UnsupportedRoomVersion as error:
        message = f"it says that the room has the version {version!r:.40}"
        raise RemoteFault(server, message, error=error, retry=False) from None


def _wrong(server: ServerName, field: str) -> RemoteFault:
    return RemoteFault(server, f"its template has the wrong {field}", retry=False)
