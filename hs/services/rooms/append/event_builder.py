"""Making the next event of a room from a draft: its place in the graph, signed, and allowed."""

import secrets
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.redaction_rules import redaction_applies
from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_types_for_event
from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.events.build import EventDraft, GraphPlace, build_event
from hs.core.events.event import Event
from hs.core.events.redaction import redact
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.signing.keys import Signer
from hs.core.versions import RoomVersion
from hs.lib.clock import Clock
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.hot_room import (
    HotRoom,
    RoomHead,
    follow,
    own_change,
    reference_hash_text,
)
from hs.services.rooms.append.pending_events import Placed
from hs.services.rooms.store.room_summaries import SUMMARISED_TYPES, summary_after

MAX_DEPTH: Final = 2**53 - 1


def random_opaque() -> str:
    """Give the unguessable part of a new ID."""
    return secrets.token_urlsafe(18)


@attrs.frozen(eq=False)
class EventBuilder:
    """Builds and checks this server's events; it changes no room."""

    signer: Signer
    clock: Clock
    opaque_id: Callable[[], str] = random_opaque

    @property
    def server_name(self) -> ServerName:
        """Give the name of this server."""
        return self.signer.server_name

    def place(
        self, room: HotRoom, head: RoomHead, draft: Draft, target: Event | None = None
    ) -> tuple[Placed, RoomHead]:
        """Make an event that follows a head; give it, and the head after it.

        `target` is the event that a redaction redacts, unless it is unknown or redacted already.
        Raises: Forbidden by the auth rules; TooLarge; BadJson.
        """
        event = self._build(room, head, draft)
        check_auth(event, head.events, head.power)
        placed = Placed(event, head.snapshot, own_change(head, event), txn=draft.txn)
        after = follow(head, event, room.create)
        if target is not None and draft.redacts is not None:
            _check_may_redact(event, target, head)
            if redaction_applies(event, target, head.power):
                placed.take_away(target)
                after = without_redacted(after, target)
        return placed, after

    def create(self, draft: Draft, rules: RoomVersion, origin_server_ts: int) -> Event:
        """Make the create event of a new room.

        Raises: Forbidden by the auth rules; TooLarge; BadJson.
        """
        content = {**draft.content, "room_version": rules.identifier}
        if not rules.implicit_creator:
            content["creator"] = draft.sender
        room_id = None
        if not rules.room_id_is_create_hash:
            room_id = draft.new_room_id or RoomID(f"!{self.opaque_id()}:{self.server_name}")
        place = GraphPlace(
            room_id=room_id,
            prev_events=(),
            auth_events=(),
            depth=1,
            origin_server_ts=origin_server_ts,
            event_id=self._event_id(rules),
        )
        event = build_event(
            EventDraft(draft.type, draft.sender, content, ""), place, rules, self.signer
        )
        check_auth(event, {})
        return event

    def _build(self, room: HotRoom, head: RoomHead, draft: Draft) -> Event:
        rules = room.rules
        cited = head.prev_events()
        auth_events = [
            head.events[key]
            for key in auth_types_for_event(
                rules, draft.type, draft.sender, draft.state_key, draft.content
            )
            if key in head.events
        ]
        hashes: Mapping[EventID, str] = {}
        if not rules.event_id_is_hash:
            hashes = {one.event_id: one.reference_hash for one in cited} | {
                one.event_id: reference_hash_text(one) for one in auth_events
            }
        now_ms = draft.origin_server_ts
        place = GraphPlace(
            room_id=room.room_id,
            prev_events=[one.event_id for one in cited],
            auth_events=[one.event_id for one in auth_events],
            depth=min(head.depth + 1, MAX_DEPTH),
            origin_server_ts=self.clock.now_ms() if now_ms is None else now_ms,
            event_id=self._event_id(rules),
            reference_hashes=hashes,
        )
        wanted = EventDraft(draft.type, draft.sender, draft.content, draft.state_key, draft.redacts)
        return build_event(wanted, place, rules, self.signer)

    def _event_id(self, rules: RoomVersion) -> EventID | None:
        if rules.event_id_is_hash:
            return None
        return EventID(f"${self.opaque_id()}:{self.server_name}")


def _check_may_redact(redaction: Event, target: Event, head: RoomHead) -> None:
    # The rooms' rules let all users of a server redact each other; what clients are promised
    # is narrower. Spec: client-server API, Redactions.
    if target.room_id != redaction.room_id or target.sender == redaction.sender:
        return
    needed = head.power.redact
    if head.power.of_user(redaction.sender) < needed:
        raise Forbidden(f"To redact others' events needs power {needed}")


def without_redacted(head: RoomHead, target: Event) -> RoomHead:
    """Give the head in which no more of a redacted state event counts than is left of it."""
    key = (target.type, target.state_key or "")
    if target.state_key is None or head.snapshot.map.get(key) != target.event_id:
        return head
    left = redact(target)
    if target.type in SUMMARISED_TYPES:
        head = attrs.evolve(head, summary=summary_after(head.summary, key, left))
    if key in head.events:
        head = attrs.evolve(head, events=head.events.set(key, left))
    if key == event_types.POWER_LEVELS_KEY:
        create = head.events[event_types.CREATE_KEY]
        head = attrs.evolve(head, power=PowerLevels.of(left, create, left.rules))
    return head
