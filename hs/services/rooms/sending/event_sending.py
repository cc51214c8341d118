"""Send messages, state events and redactions for clients.

A plain message needs its draft and one call to the room's owner; nothing else is awaited.
"""

import secrets

import attrs

from hs.core.canonical_json import MAX_INTEGER, JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, NotFound
from hs.core.event_contents import check_content
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.sticky import check_sticky_duration
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.rooms.aliases.canonical_aliases import CanonicalAliasCheck
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft, TransactionKey
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.sending.relation_checks import RelatingEvent, RelationChecks
from hs.services.rooms.store.event_store import EventStore

UNREDACTABLE = frozenset({event_types.CREATE, event_types.SERVER_ACL})


@attrs.frozen(eq=False, kw_only=True)
class EventSender:
    """Sends events to rooms for clients.

    `origin_server_ts` is used for application services only.
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
        sticky_ms: int | None = None,
    ) -> EventID:
        """Send a message event, which may be sticky; idempotent by the transaction ID.

        Raises: Forbidden, BadJson, TooLarge, DuplicateAnnotation, InvalidParam, Unknown.
        """
        check_sticky_duration(sticky_ms)
        check_content(requester.user_id, event_type, None, content)
        if requester.is_shadow_banned:
            return _fake_event_id()
        scope = f"/rooms/{room_id}/send/{event_type}"
        if event_type == event_types.REDACTION:
            # Redacting one's own events is allowed in spite of account restrictions.
            txn = _txn_key(requester, scope, txn_id)
            return await self._redact_by_content(requester, room_id, content, txn, sticky_ms)
        check_may_act(requester)
        txn = _txn_key(requester, scope, txn_id)
        if "m.relates_to" in content:
            relating = RelatingEvent(room_id, event_type, requester.user_id, content, txn)
            await self.relations.check(relating)
        draft = Draft(
            event_type,
            requester.user_id,
            content,
            txn=txn,
            origin_server_ts=_timestamp_of_appservice(requester, origin_server_ts),
            sticky_ms=sticky_ms,
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
        """Send a state event; if the state is the same already, return the existing event.

        Raises: Forbidden, BadJson, TooLarge, BadAlias, InvalidParam.
        """
        scope = f"/rooms/{room_id}/state/{event_type}/{state_key}"
        txn = _txn_key(requester, scope, txn_id)
        if event_type == event_types.MEMBER:
            at_ms = _timestamp_of_appservice(requester, origin_server_ts)
            return await self.membership.set_member(
                requester, room_id, state_key, content, at_ms, txn
            )
        check_may_act(requester)
        check_may_be_state(event_type)
        check_content(requester.user_id, event_type, state_key, content)
        if event_type == event_types.THIRD_PARTY_INVITE and content:  # without, it is a revocation
            self.membership.policy.check_may_invite(requester)
        if requester.is_shadow_banned:
            return _fake_event_id()
        if event_type == event_types.CANONICAL_ALIAS and state_key == "":
            await self.canonical_aliases.check(room_id, content)
        draft = Draft(
            event_type,
            requester.user_id,
            content,
            state_key,
            txn=txn,
            origin_server_ts=_timestamp_of_appservice(requester, origin_server_ts),
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

        Raises: Forbidden, also for events that the room needs; InvalidParam, for an event of
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
        txn: TransactionKey | None,
        sticky_ms: int | None,
    ) -> EventID:
        redacts = content.get("redacts")
        if not isinstance(redacts, str) or "\0" in redacts:
            raise BadJson("redacts must be an event ID")
        own_content = {key: content[key] for key in content if key != "redacts"}
        event_id = parse_event_id(redacts)
        return await self._redact(requester, room_id, event_id, own_content, txn, sticky_ms)

    async def _redact(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        content: JsonObject,
        txn: TransactionKey | None,
        sticky_ms: int | None = None,
    ) -> EventID:
        target = await self.events.get_one(event_id)
        if target is not None:
            _check_target(target.event, room_id)
        if target is None or target.event.sender != requester.user_id:
            check_may_act(requester)
        draft = Draft(
            event_types.REDACTION,
            requester.user_id,
            content,
            redacts=event_id,
            txn=txn,
            sticky_ms=sticky_ms,
        )
        return await self._append(room_id, draft)

    async def _append(self, room_id: RoomID, draft: Draft) -> EventID:
        try:
            appended = await self.appender.append(room_id, [draft])
        except NotFound as error:
            # Do not reveal whether the room exists.
            raise Forbidden("You are not in this room") from error
        return appended[0].event_id


def _check_target(event: Event, room_id: RoomID) -> None:
    """Reject redactions that would break the room, although the auth rules allow them.

    A redacted create event lacks the room version, the type and `m.federate`; a redacted
    m.room.server_acl denies all servers. Raises: InvalidParam, Forbidden.
    """
    if event.room_id != room_id:
        raise InvalidParam("The event to redact is in another room")
    if event.type in UNREDACTABLE:
        raise Forbidden(f"{event.type} cannot be redacted")


def check_may_be_state(event_type: str) -> None:
    """Raise InvalidParam for event types that cannot be state.

    A redaction with a state key would refer to its target, but not redact it.
    Spec: client-server API, m.room.redaction, a message event.
    """
    if event_type == event_types.REDACTION:
        raise InvalidParam("m.room.redaction cannot be a state event")


def _txn_key(requester: Requester, scope: str, txn_id: str | None) -> TransactionKey | None:
    if txn_id is None:
        return None
    return TransactionKey(requester.user_id, requester.device_id or "", scope, txn_id)


def _timestamp_of_appservice(requester: Requester, origin_server_ts: int | None) -> int | None:
    if origin_server_ts is None or requester.appservice_id is None:
        return None
    if not 0 <= origin_server_ts <= MAX_INTEGER:
        raise InvalidParam("ts must be a non-negative integer less than 2^53")
    return origin_server_ts


def _fake_event_id() -> EventID:
    return EventID(f"${secrets.token_urlsafe(32)}")
