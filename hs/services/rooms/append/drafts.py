"""What callers ask the owner of a room to append, and what they get back; both cross processes."""

from typing import Any

import attrs

from hs.core.ids import EventID, RoomID, UserID


@attrs.frozen
class TxnKey:
    """What makes a request idempotent: a repetition with the same key gives the same event.

    `device_id` is "" for tokens without a device; `scope` is the request's path without the
    transaction ID, so that the same ID in another room is another request.
    """

    user_id: UserID
    device_id: str
    scope: str
    txn_id: str


@attrs.frozen
class Draft:
    """An event yet to be built: its place in the graph, depth and hashes come from the owner.

    `redacts` is put where the room's version keeps it. With `keep_if_same`, a state event equal
    in content and sender to the current one is answered by that one's ID, and nothing is new.
    `replaces` is the event that must still hold the entry of the state when this is appended.
    `new_room_id` is the ID for the room that an m.room.create begins, where we may choose one.
    """

    type: str
    sender: UserID
    content: dict[str, Any]
    state_key: str | None = None
    redacts: EventID | None = None
    txn: TxnKey | None = None
    origin_server_ts: int | None = None
    keep_if_same: bool = False
    replaces: EventID | None = None
    new_room_id: RoomID | None = None


@attrs.frozen
class Appended:
    """What became of a draft; `existed` when a transaction ID or `keep_if_same` found it done."""

    event_id: EventID
    stream_id: int
    room_id: RoomID
    existed: bool = False
