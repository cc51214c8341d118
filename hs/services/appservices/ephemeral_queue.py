"""What one service is to get besides events: kept in memory, the newest of each kind.

Of receipts and device lists the position up to which they are in here, or were sent, is stored
with each transaction; of messages to devices the table is the store. The rest passes.
"""

from collections.abc import Hashable
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.repl.rows import PresenceRow
from hs.services.appservices.appservice_registry import Service

MAX_ENTRIES: Final = 10_000
"""Of each kind; a service that is away for long loses the oldest of what passes."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

DeviceKey = tuple[str, str]
ReceiptKey = tuple[str, str, str, str]  # room, type, user, thread


@attrs.frozen
class ReceiptNote:
    """A receipt where it stands."""

    event_id: str
    ts: int


@attrs.define(eq=False)
class Outgoing:
    """One service's; `wake` is set when anything is added.

    `reached` tells up to which position of a stream everything is in here.
    """

    service: Service
    has_events: bool = True
    typing: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    receipts: dict[ReceiptKey, ReceiptNote] = attrs.Factory(dict)
    presence: dict[str, PresenceRow] = attrs.Factory(dict)
    changed: dict[str, None] = attrs.Factory(dict)
    left: dict[str, None] = attrs.Factory(dict)
    inboxes: dict[DeviceKey, None] = attrs.Factory(dict)
    counts: dict[DeviceKey, None] = attrs.Factory(dict)
    reached: dict[str, int] = attrs.Factory(dict)
    wake: trio.Event = attrs.Factory(trio.Event)
    reachable: trio.Event = attrs.Factory(trio.Event)

    def add_events(self) -> None:
        """Note that events wait in the table."""
        self.has_events = True
        self.wake.set()

    def add(self, kept: dict[K, V], key: K, value: V) -> None:
        """Add to one of the kinds, in place of what it had under the key."""
        kept.pop(key, None)
        kept[key] = value
        if len(kept) > MAX_ENTRIES:
            del kept[next(iter(kept))]
        self.wake.set()

    def add_device_list(self, user_id: str, *, is_shared: bool) -> None:
        """Note that a user's devices changed, or that nobody of ours shares a room with them."""
        (self.left if is_shared else self.changed).pop(user_id, None)
        self.add(self.changed if is_shared else self.left, user_id, None)


def take(kept: dict[K, V], limit: int) -> list[tuple[K, V]]:
    """Take the oldest entries out."""
    taken = [(key, kept[key]) for key in list(kept)[:limit]]
    for key, _ in taken:
        del kept[key]
    return taken


def rendered_receipts(receipts: list[tuple[ReceiptKey, ReceiptNote]]) -> list[dict[str, Any]]:
    """Make m.receipt events of receipts, one for each room unless threads need more.

    Spec: client-server API, Receipts.
    """
    events: list[dict[str, Any]] = []
    of_room: dict[str, dict[str, Any]] = {}
    for (room_id, receipt_type, user_id, thread_id), note in receipts:
        value: dict[str, Any] = {"ts": note.ts}
        if thread_id:
            value["thread_id"] = thread_id
        content = of_room.get(room_id)
        if content is None or user_id in _users(content, note.event_id, receipt_type):
            content = of_room[room_id] = {}
            events.append({"type": "m.receipt", "room_id": room_id, "content": content})
        content.setdefault(note.event_id, {}).setdefault(receipt_type, {})[user_id] = value
    return events


def _users(content: dict[str, Any], event_id: str, receipt_type: str) -> dict[str, Any]:
    users: dict[str, Any] = content.get(event_id, {}).get(receipt_type, {})
    return users
