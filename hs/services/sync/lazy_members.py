"""Which member events each device holds already, so that lazy loading need not repeat them.

What an answer brought counts only once the device comes back with a token that covers it: an
answer that got lost on its way is given again whole.

Spec: client-server API, Lazy-loading room members.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.lib.cache import LruCache

MAX_DEVICES: Final = 10_000
MAX_MEMBERS_PER_DEVICE: Final = 10_000

Member = tuple[RoomID, UserID, EventID]


@attrs.define(eq=False)
class SentMembers:
    """What one device holds; `pending` is what the last answer brought, up to `pending_at`."""

    held: dict[RoomID, dict[UserID, EventID]] = attrs.Factory(dict)
    count: int = 0
    confirmed_at: int = 0
    pending: tuple[Member, ...] = ()
    pending_at: int = 0

    def resume(self, since: VectorPosition | None) -> None:
        """Have the device come back with a token, or start afresh."""
        at = 0 if since is None else since.most()
        if since is None or at < self.confirmed_at:
            self.held.clear()
            self.count = self.confirmed_at = 0
        if self.pending and at >= self.pending_at:
            self._confirm()
        self.pending = ()

    def has(self, room_id: RoomID, user_id: UserID, event_id: EventID) -> bool:
        """Tell whether the device holds a member event."""
        room = self.held.get(room_id)
        return room is not None and room.get(user_id) == event_id

    def bring(self, members: Iterable[Member], at: VectorPosition) -> None:
        """Note what an answer brings, whose token is `at`."""
        self.pending = tuple(members)
        self.pending_at = at.most()

    def _confirm(self) -> None:
        for room_id, user_id, event_id in self.pending:
            room = self.held.setdefault(room_id, {})
            self.count += user_id not in room
            room[user_id] = event_id
        self.confirmed_at = self.pending_at
        while self.count > MAX_MEMBERS_PER_DEVICE and self.held:
            room_id = next(iter(self.held))
            self.count -= len(self.held.pop(room_id))


class LazyMembers:
    """The memories of all devices that sync in this process."""

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._devices: LruCache[tuple[UserID, str | None], SentMembers] = LruCache(
            "lazy_members", max_entries=max_devices
        )

    def of(self, user_id: UserID, device_id: str | None) -> SentMembers:
        """Give the memory of one device."""
        key = (user_id, device_id)
        sent = self._devices.get(key)
        if sent is None:
            sent = SentMembers()
            self._devices.put(key, sent)
        return sent
