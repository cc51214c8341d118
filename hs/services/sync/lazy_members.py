"""Which member events each device holds already, so that lazy loading need not repeat them.

What an answer brought counts only once the device comes back with that answer's token: an answer
that got lost on its way is given again whole. A device that comes with any other token was
answered elsewhere meanwhile, perhaps from the beginning; nothing is known of it any more.

Spec: client-server API, Lazy-loading room members.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.lru_cache import LruCache

MAX_DEVICES: Final = 10_000
MAX_MEMBERS_PER_DEVICE: Final = 10_000

Member = tuple[RoomID, UserID, EventID]


@attrs.define(eq=False)
class SentMembers:
    """What one device holds that came with the token `at`.

    `pending` is what the answer to it brought, whose token is `pending_at`.
    """

    held: dict[RoomID, dict[UserID, EventID]] = attrs.Factory(dict)
    count: int = 0
    at: str | None = None
    pending: tuple[Member, ...] = ()
    pending_at: str | None = None

    def resume(self, since: str | None) -> None:
        """Have the device come back with a token, or start afresh."""
        if since is None or since not in (self.at, self.pending_at):
            self.held.clear()
            self.count = 0
        elif since != self.at:
            self._confirm()
        self.at = since
        self.pending, self.pending_at = (), None

    def has(self, room_id: RoomID, user_id: UserID, event_id: EventID) -> bool:
        """Tell whether the device holds a member event."""
        room = self.held.get(room_id)
        return room is not None and room.get(user_id) == event_id

    def bring(self, members: Iterable[Member], token: str) -> None:
        """Note what an answer brings, and the token it gives."""
        self.pending = tuple(members)
        self.pending_at = token

    def _confirm(self) -> None:
        for room_id, user_id, event_id in self.pending:
            room = self.held.setdefault(room_id, {})
            self.count += user_id not in room
            room[user_id] = event_id
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
