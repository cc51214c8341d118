"""The in-memory queue of data other than events for one application service.

For receipts and device lists, the position up to which they have been sent is stored with each
transaction. To-device messages stay in their table until they are sent. Typing and presence are
only held here. Each kind has one entry per key, the newest.
"""

from collections.abc import Hashable
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.core.streams import PresenceRow
from hs.services.appservices.appservice_registry import Appservice

MAX_ENTRIES: Final = 10_000
"""Limit per kind; a service that is unreachable for long loses the oldest entries."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

DeviceKey = tuple[str, str]  # user_id, device_id
ReceiptKey = tuple[str, str, str, str]  # room, type, user, thread


@attrs.frozen
class ReceiptUpdate:
    """The current value of a receipt."""

    event_id: str
    ts: int


@attrs.define(eq=False)
class OutgoingQueue:
    """The queue of one service; `wake` is set when anything is added.

    `reached` contains the positions up to which streams have been added.
    """

    service: Appservice
    has_events: bool = True
    typing: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    receipts: dict[ReceiptKey, ReceiptUpdate] = attrs.Factory(dict)
    presence: dict[str, PresenceRow] = attrs.Factory(dict)
    changed: dict[str, None] = attrs.Factory(dict)
    left: dict[str, None] = attrs.Factory(dict)
    inboxes: dict[DeviceKey, None] = attrs.Factory(dict)
    counts: dict[DeviceKey, None] = attrs.Factory(dict)
    reached: dict[str, int] = attrs.Factory(dict)
    wake: trio.Event = attrs.Factory(trio.Event)
    reachable: trio.Event = attrs.Factory(trio.Event)

    def add_events(self) -> None:
        """Record that events are waiting in the table."""
        self.has_events = True
        self.wake.set()

    def add(self, entries: dict[K, V], key: K, value: V) -> None:
        """Add an entry to one of the kinds, replacing the entry with the same key."""
        entries.pop(key, None)
        entries[key] = value
        if len(entries) > MAX_ENTRIES:
            del entries[next(iter(entries))]
        self.wake.set()

    def add_device_list(self, user_id: str, *, is_shared: bool) -> None:
        """Add a changed device list, or one that the service need not track any more."""
        (self.left if is_shared else self.changed).pop(user_id, None)
        self.add(self.changed if is_shared else self.left, user_id, None)


def take_oldest(entries: dict[K, V], limit: int) -> list[tuple[K, V]]:
    """Remove and return the oldest entries."""
    oldest = [(key, entries[key]) for key in list(entries)[:limit]]
    for key, _ in oldest:
        del entries[key]
    return oldest


def render_receipts(receipts: list[tuple[ReceiptKey, ReceiptUpdate]]) -> list[dict[str, Any]]:
    """Render receipts as m.receipt events, one per room unless threads require more.

    Spec: client-server API, Receipts.
    """
    events: list[dict[str, Any]] = []
    by_room: dict[str, dict[str, Any]] = {}
    for (room_id, receipt_type, user_id, thread_id), receipt in receipts:
        value: dict[str, Any] = {"ts": receipt.ts}
        if thread_id:
            value["thread_id"] = thread_id
        content = by_room.get(room_id)
        if content is None or user_id in _users_with_receipt(
            content, receipt.event_id, receipt_type
        ):
            content = by_room[room_id] = {}
            events.append({"type": "m.receipt", "room_id": room_id, "content": content})
        content.setdefault(receipt.event_id, {}).setdefault(receipt_type, {})[user_id] = value
    return events


def _users_with_receipt(
    content: dict[str, Any], event_id: str, receipt_type: str
) -> dict[str, Any]:
    users: dict[str, Any] = content.get(event_id, {}).get(receipt_type, {})
    return users
