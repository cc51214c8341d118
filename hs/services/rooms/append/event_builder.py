"""Build the next event of a room from a draft: fill in, authorize and sign it."""

import secrets
from collections.abc import Mapping
from typing import Final

import attrs

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.redaction_rules import redaction_applies
from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_types_for_event
from hs.core.errors import Forbidden, InvalidParam
from hs.core.event_contents import check_levels
from hs.core.events import event_types
from hs.core.events.build import EventDraft, GraphPosition, build_event
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
    encoded_reference_hash,
    head_after,
    own_state_change,
)
from hs.services.rooms.append.pending_events import PendingEvent, is_dummy
from hs.services.rooms.store.room_summaries import SUMMARISED_TYPES, summary_after
from hs.services.rooms.store.stored_event import EventStatus

MAX_DEPTH: Final = 2**53 - 1


def random_opaque() -> str:
    """Return the unguessable part of a new event ID or room ID."""
    return secrets.token_urlsafe(18)


@attrs.frozen(eq=False)
class EventBuilder:
    """Builds, signs and authorizes this server's events; changes no room."""

    signer: Signer
    clock: Clock

    @property
    def server_name(self) -> ServerName:
        """Name of this server."""
        return self.signer.server_name

    def build_event(
        self, room: HotRoom, head: RoomHead, draft: Draft, target: Event | None = None
    ) -> tuple[PendingEvent, RoomHead]:
        """Build the event that follows `head`; return it and the head after it.

        It cites all extremities of `head`, of which there are at most MAX_PREV_EVENTS.
        `target` is the event that a redaction redacts; None if it is unknown or already redacted.
        Raises: Forbidden, by the auth rules; InvalidParam, if nobody could send the event;
            TooLarge; BadJson.
        """
        if draft.type == event_types.POWER_LEVELS and draft.state_key == "":
            check_levels(draft.content, room.rules)
            _check_creators_have_no_levels(draft, head)
        event = self._build(room, head, draft)
        check_auth(event, head.events, head.power)
        pending = PendingEvent(event, head.snapshot, own_state_change(head, event), txn=draft.txn)
        if is_dummy(event):
            pending.status = EventStatus.HIDDEN
        after = head_after(head, event, room.create)
        if target is not None and draft.redacts is not None:
            _check_may_redact(event, target, head)
            if redaction_applies(event, target, head.power):
                pending.mark_redacted(target)
                after = head_without_redacted(after, target)
        return pending, after

    def build_create_event(self, draft: Draft, rules: RoomVersion, origin_server_ts: int) -> Event:
        """Build the create event of a new room.

        Raises: Forbidden, by the auth rules; TooLarge; BadJson.
        """
        content = {**draft.content, "room_version": rules.identifier}
        if not rules.implicit_creator:
            content["creator"] = draft.sender
        room_id = None
        if not rules.room_id_is_create_hash:
            room_id = draft.new_room_id or RoomID(f"!{random_opaque()}:{self.server_name}")
        position = GraphPosition(
            room_id=room_id,
            prev_events=(),
            auth_events=(),
            depth=1,
            origin_server_ts=origin_server_ts,
            event_id=self._event_id(rules),
        )
        event_draft = EventDraft(draft.type, draft.sender, content, "")
        event = build_event(event_draft, position, rules, self.signer)
        check_auth(event, {})
        return event

    def _build(self, room: HotRoom, head: RoomHead, draft: Draft) -> Event:
        rules = room.rules
        prev_events = head.extremities
        auth_events = [
            head.events[key]
            for key in auth_types_for_event(
                rules, draft.type, draft.sender, draft.state_key, draft.content
            )
            if key in head.events
        ]
        hashes: Mapping[EventID, str] = {}
        if not rules.event_id_is_hash:
            hashes = {end.event_id: end.reference_hash for end in prev_events} | {
                event.event_id: encoded_reference_hash(event) for event in auth_events
            }
        origin_server_ts = draft.origin_server_ts
        if origin_server_ts is None:
            origin_server_ts = self.clock.now_ms()
        position = GraphPosition(
            room_id=room.room_id,
            prev_events=[end.event_id for end in prev_events],
            auth_events=[event.event_id for event in auth_events],
            depth=min(head.depth + 1, MAX_DEPTH),
            origin_server_ts=origin_server_ts,
            event_id=self._event_id(rules),
            reference_hashes=hashes,
        )
        event_draft = EventDraft(
            draft.type,
            draft.sender,
            draft.content,
            draft.state_key,
            draft.redacts,
            sticky_ms=draft.sticky_ms,
        )
        return build_event(event_draft, position, rules, self.signer)

    def _event_id(self, rules: RoomVersion) -> EventID | None:
        if rules.event_id_is_hash:
            return None
        return EventID(f"${random_opaque()}:{self.server_name}")


def _check_creators_have_no_levels(draft: Draft, head: RoomHead) -> None:
    # The auth rules reject this whatever the sender's power is, so it is not Forbidden.
    users = draft.content.get("users")
    named = head.power.creators & users.keys() if isinstance(users, Mapping) else None
    if named:
        raise InvalidParam(
            f"users must not contain the room's creators: {', '.join(sorted(named))}"
        )


def _check_may_redact(redaction: Event, target: Event, head: RoomHead) -> None:
    # The auth rules let users of one server redact each other's events; the client-server API
    # is stricter: without the power level, a user may redact their own events only.
    # Spec: client-server API, Redactions.
    if target.room_id != redaction.room_id or target.sender == redaction.sender:
        return
    needed = head.power.redact
    if head.power.of_user(redaction.sender) < needed:
        raise Forbidden(f"Redacting events of other users requires power level {needed}")


def head_without_redacted(head: RoomHead, target: Event) -> RoomHead:
    """Return the head after a redaction of `target`: its state uses the redacted event."""
    key = (target.type, target.state_key or "")
    if target.state_key is None or head.snapshot.map.get(key) != target.event_id:
        return head
    redacted = redact(target)
    if target.type in SUMMARISED_TYPES:
        head = attrs.evolve(head, summary=summary_after(head.summary, key, redacted))
    if key in head.events:
        head = attrs.evolve(head, events=head.events.set(key, redacted))
    if key == event_types.POWER_LEVELS_KEY:
        create = head.events[event_types.CREATE_KEY]
        head = attrs.evolve(head, power=PowerLevels.of(redacted, create, redacted.rules))
    return head
