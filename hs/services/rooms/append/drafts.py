"""The arguments and results of appending; both are sent between processes."""

from typing import Any

import attrs

from hs.core.ids import EventID, RoomID, UserID


@attrs.frozen
class TransactionKey:
    """The key that makes a request idempotent: the same key yields the same event.

    `device_id` is "" for access tokens without a device. `scope` is the path of the request without
    the transaction ID, so that the same ID used in another room is a different request.
    """

    user_id: UserID
    device_id: str
    scope: str
    txn_id: str


@attrs.frozen
class Draft:
    """An event as a service asks for it; the owner of the room adds prev_events, depth and hashes.

    - `redacts` is written where the room version expects it: at the top level or in `content`.
    - `keep_if_same`: if the current state event has the same content and sender, return that
      event and append nothing.
    - `replaces`: the event that must still be the current one for this type and state key.
    - `from_memberships`: the memberships that the user of a member event may have before it; with
      any other, the draft is refused. Empty if the auth rules alone decide.
    - `sticky_ms`: how long the event is sticky (MSC4354); None if it is not.
    - `new_room_id`: the room ID for an m.room.create, in room versions where the server chooses it.
    """

    type: str
    sender: UserID
    content: dict[str, Any]
    state_key: str | None = None
    redacts: EventID | None = None
    txn: TransactionKey | None = None
    origin_server_ts: int | None = None
    keep_if_same: bool = False
    replaces: EventID | None = None
    new_room_id: RoomID | None = None
    from_memberships: tuple[str, ...] = ()
    sticky_ms: int | None = None


@attrs.frozen
class AppendedEvent:
    """The event appended for a draft.

    `existed` means that a transaction ID or `keep_if_same` matched an earlier event.
    """

    event_id: EventID
    stream_id: int
    room_id: RoomID
    existed: bool = False
