"""Events at the end of a room that are not appended: templates for other servers, and invites.

Spec: server-server API, Joining Rooms, Knocking upon a room, Leaving Rooms, Inviting to a room.
"""

from typing import Final, Protocol

import attrs
import orjson

from hs.core.auth.rules import check_auth
from hs.core.canonical_json import JsonObject
from hs.core.errors import MatrixError
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, server_of
from hs.repl.rpc import rpc
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.event_builder import EventBuilder
from hs.services.rooms.append.forked_heads import ForkedHeads, is_forked
from hs.services.rooms.append.hot_room import HotRoom, RoomHead
from hs.services.rooms.append.hot_rooms import HotRooms, RoomDropped
from hs.services.rooms.append.policy_servers import PolicyServerCheck
from hs.services.rooms.store.event_store import EventStore

ATTEMPTS: Final = 3  # if commits of the room fail while its events are fetched

_POLICY_KEY: Final = (event_types.POLICY, "")
_NOT_IN_TEMPLATES: Final = ("hashes", "signatures", "unsigned", "event_id")


@attrs.frozen
class BuiltEvent:
    """An event that was built but not appended, as canonical JSON, and the version of its room.

    `existing` is set instead of `pdu` if the current state event has the same content and sender,
    and the draft asked for that by `keep_if_same`.
    """

    room_version: str
    pdu: bytes = b""
    existing: EventID | None = None


class EventTemplates(Protocol):
    """Builds events at the end of rooms without appending them."""

    @rpc
    async def template(self, room_id: RoomID, draft: Draft) -> BuiltEvent:
        """Build an event that another server will sign: without hashes, signatures and ID.

        Raises: NotFound, if this server has no state of the room; Forbidden, by the auth rules.
        """

    @rpc
    async def signed(self, room_id: RoomID, draft: Draft) -> BuiltEvent:
        """Build and sign an event of this server.

        Raises: as `template`; MatrixError, if the room's policy server does not recommend it.
        """


@attrs.frozen(eq=False)
class OwnedEventTemplates:
    """The EventTemplates of the process that owns the rooms."""

    _rooms: HotRooms
    _events: EventStore
    _builder: EventBuilder
    _policies: PolicyServerCheck
    _forks: ForkedHeads

    async def template(self, room_id: RoomID, draft: Draft) -> BuiltEvent:
        """Build an unsigned event; see EventTemplates."""
        event, _, _ = await self._build(room_id, draft)
        return BuiltEvent(event.rules.identifier, _unsigned(event))

    async def signed(self, room_id: RoomID, draft: Draft) -> BuiltEvent:
        """Build a signed event; see EventTemplates."""
        event, current, policy_id = await self._build(room_id, draft)
        same = current is not None and (current.sender, current.content) == (
            event.sender,
            event.content,
        )
        if draft.keep_if_same and same and current is not None:
            return BuiltEvent(event.rules.identifier, existing=current.event_id)
        if policy_id is not None:
            policy = await self._events.get_one(policy_id)
            if policy is not None and policy.redacted_by is None:
                (event,) = await self._policies.sign_recommended(room_id, policy.event, [event])
        return BuiltEvent(event.rules.identifier, event.canonical)

    async def _build(
        self, room_id: RoomID, draft: Draft
    ) -> tuple[Event, Event | None, EventID | None]:
        """Return the event, the state event that it would replace, and the room's policy."""
        for _ in range(ATTEMPTS):
            try:
                async with self._rooms.hold(room_id) as room:
                    await self._load_auth_events(room, draft)
                    head = room.head
                    cited = head
                    if is_forked(room):
                        cited = await self._forks.cited_head(room, server_of(draft.sender))
                    pending, _ = self._builder.build_event(room, cited, draft)
                    if cited is not head:
                        check_auth(pending.event, head.events, head.power)
                    policy_id = head.snapshot.map.get(_POLICY_KEY)
                    return pending.event, _current(head, draft), policy_id
            except RoomDropped:
                continue
        raise MatrixError("M_UNKNOWN", 503, "The room's events could not be stored; try again")

    async def _load_auth_events(self, room: HotRoom, draft: Draft) -> None:
        missing = room.missing_auth_event_ids([draft])
        if missing:
            stored = await self._events.get(missing)
            self._rooms.check_not_dropped(room)
            room.remember_state_events(event.effective_event for event in stored.values())


def _current(head: RoomHead, draft: Draft) -> Event | None:
    # Member events of the state that the auth rules need are loaded; others are not asked for.
    return None if draft.state_key is None else head.events.get((draft.type, draft.state_key))


def _unsigned(event: Event) -> bytes:
    template: JsonObject = {
        field: event.pdu[field] for field in event.pdu if field not in _NOT_IN_TEMPLATES
    }
    return orjson.dumps(template)
