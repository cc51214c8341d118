"""Sending messages, state and redactions for clients.

A plain message costs its draft and one call of the room's owner: nothing else is awaited.
"""

import secrets

import attrs

from hs.core.canonical_json import MAX_INTEGER, JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, NotFound
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.rooms.aliases.canonical_aliases import CanonicalAliasCheck
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft, TxnKey
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.sending.relation_checks import Relating, RelationChecks
from hs.services.rooms.store.event_store import EventStore

UNREDACTABLE = frozenset({event_types.CREATE, event_types.SERVER_ACL})


@attrs.frozen(eq=False, kw_only=True)
class Sending:
    """Sends events into rooms for clients.

    `origin_server_ts` is for application services; others' is left to the clock.
    """

    appender: RoomAppender
    events: EventStore
    relations: RelationChecks
    canonical_aliases: CanonicalAliasCheck
    membership: RoomMembership

    async def message(
        self,
        requester: Requester,
        room_id: RoomID,
        event_type: str,
        content: JsonObject,
        *,
        txn_id: str | None = None,
        origin_server_ts: int | None = None,
    ) -> EventID:
        """Send a message event; the same transaction ID again gives the same event.

        Raises: Forbidden, BadJson, TooLarge, DuplicateAnnotation, Unknown.
        """
        if requester.shadow:
            return _event_id_of_nothing()
        scope = f"/rooms/{room_id}/send/{event_type}"
        if event_type == event_types.REDACTION:
            # Own events may be redacted by those who may do nothing else.
            return await self._redact_by_content(requester, room_id, content, scope, txn_id)
        check_may_act(requester)
        txn = _txn_key(requester, scope, txn_id)
        if "m.relates_to" in content:
            relating = Relating(room_id, event_type, requester.user_id, content, txn)
            await self.relations.check(relating)
        draft = Draft(
            event_type,
            requester.user_id,
            content,
            txn=txn,
            origin_server_ts=_chosen_time(requester, origin_server_ts),
        )
        return await self._append(room_id, draft)

    async def state(
        self,
        requester: Requester,
        room_id: RoomID,
        event_type: str,
        state_key: str,
        content: JsonObject,
        *,
        txn_id: str | None = None,
        origin_server_ts: int | None = None,
    ) -> EventID:
        """Set an entry of the room's state; what is so already gives the event that made it so.

        Raises: Forbidden, BadJson, TooLarge, BadAlias, InvalidParam.
        """
        scope = f"/rooms/{room_id}/state/{event_type}/{state_key}"
        txn = _txn_key(requester, scope, txn_id)
        if event_type == event_types.MEMBER:
            at_ms = _chosen_time(requester, origin_server_ts)
            return await self.membership.set_member(
                requester, room_id, state_key, content, at_ms, txn
            )
        check_may_act(requester)
        check_may_be_state(event_type)
        if requester.shadow:
            return _event_id_of_nothing()
        if event_type == event_types.CANONICAL_ALIAS and state_key == "":
            await self.canonical_aliases.check(room_id, content)
        draft = Draft(
            event_type,
            requester.user_id,
            content,
            state_key,
            txn=txn,
            origin_server_ts=_chosen_time(requester, origin_server_ts),
            keep_if_same=True,
        )
        return await self._append(room_id, draft)

    async def redact(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        *,
        txn_id: str | None = None,
        reason: str | None = None,
    ) -> EventID:
        """Redact an event; suspended users may redact their own.

        Raises: Forbidden, also for what would break the room; InvalidParam for an event of
        another room.
        """
        content = {} if reason is None else {"reason": reason}
        scope = f"/rooms/{room_id}/redact/{event_id}"
        txn = _txn_key(requester, scope, txn_id)
        return await self._redact(requester, room_id, event_id, content, txn)

    async def _redact_by_content(
        self,
        requester: Requester,
        room_id: RoomID,
        content: JsonObject,
        scope: str,
        txn_id: str | None,
    ) -> EventID:
        redacts = content.get("redacts")
        if not isinstance(redacts, str) or "\0" in redacts:
            raise BadJson("A redaction needs `redacts`, an event ID")
        rest = {key: content[key] for key in content if key != "redacts"}
        txn = _txn_key(requester, scope, txn_id)
        return await self._redact(requester, room_id, parse_event_id(redacts), rest, txn)

    async def _redact(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        content: JsonObject,
        txn: TxnKey | None,
    ) -> EventID:
        target = await self.events.get_one(event_id)
        if target is not None:
            _check_target(target.event, room_id)
        if target is None or target.event.sender != requester.user_id:
            check_may_act(requester)
        draft = Draft(event_types.REDACTION, requester.user_id, content, redacts=event_id, txn=txn)
        return await self._append(room_id, draft)

    async def _append(self, room_id: RoomID, draft: Draft) -> EventID:
        try:
            appended = await self.appender.append(room_id, [draft])
        except NotFound as error:
            # Whether a room exists is nobody's business who is not in it.
            raise Forbidden("You are not in this room") from error
        return appended[0].event_id


def _check_target(event: Event, room_id: RoomID) -> None:
    """Refuse what would break the room, though the rules of authorisation let a moderator do it.

    Without its content a create event tells neither version nor type, nor who is kept out, and a
    list of servers (m.room.server_acl) keeps out everybody. Raises: InvalidParam, Forbidden.
    """
    if event.room_id != room_id:
        raise InvalidParam("The event to redact is in another room")
    if event.type in UNREDACTABLE:
        raise Forbidden(f"{event.type} cannot be redacted")


def check_may_be_state(event_type: str) -> None:
    """Refuse to set what is only ever a message.

    A redaction with a state key would name what it redacts and take nothing away.
    Spec: client-server API, m.room.redaction, a message event. Raises: InvalidParam.
    """
    if event_type == event_types.REDACTION:
        raise InvalidParam("Redactions are no state: they are sent")


def _txn_key(requester: Requester, scope: str, txn_id: str | None) -> TxnKey | None:
    if txn_id is None:
        return None
    return TxnKey(requester.user_id, requester.device_id or "", scope, txn_id)


def _chosen_time(requester: Requester, origin_server_ts: int | None) -> int | None:
    if origin_server_ts is None or requester.appservice_id is None:
        return None
    if not 0 <= origin_server_ts <= MAX_INTEGER:
        raise InvalidParam("ts is no time of an event")
    return origin_server_ts


def _event_id_of_nothing() -> EventID:
    return EventID(f"${secrets.token_urlsafe(32)}")
