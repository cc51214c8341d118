"""The member events that each device has received, so that lazy loading does not repeat them.

Rules:

- The members of a response count as received only when the device sends that response's
  `next_batch` as `since`. If the response is lost, the device repeats its old token, and the
  members are sent again.
- Any other token means that another process answered the device in the meantime, or that it started
  over. The record is cleared; members are repeated rather than missing.
- Concurrent requests of a device share one record. Of two responses, the later one stays pending.
  If both have the same token, nobody can tell which of them the device received, so only the
  members that both contain are pending. Responses without lazy loading do not count: a device
  that uses filters of both kinds keeps what each of them has shown it.
- Records are kept in memory only, and limited in number and size. A lost record costs
  repeated members.

Spec: client-server API, Lazy-loading room members.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from hs.core.ids import EventID, RoomID, UserID
from hs.lib.caching.lru_cache import LruCache

MAX_DEVICES: Final = 10_000
MAX_MEMBERS_PER_DEVICE: Final = 10_000

SentMember = tuple[RoomID, UserID, EventID]


@attrs.define(eq=False)
class SentMembers:
    """The member events that one device has received.

    They are confirmed up to the token that the device sent last; those of the response to that
    request are pending until the device sends the token of the response.
    """

    confirmed: dict[RoomID, dict[UserID, EventID]] = attrs.Factory(dict)
    count: int = 0
    confirmed_token: str | None = None
    pending: frozenset[SentMember] = frozenset()
    pending_token: str | None = None

    def resume(self, since: str | None) -> None:
        """Confirm the pending members if `since` is their token.

        An unknown token clears the record.
        """
        if since is None or since not in (self.confirmed_token, self.pending_token):
            self.confirmed.clear()
            self.count = 0
        elif since != self.confirmed_token:
            self._confirm()
        self.confirmed_token = since

    def has(self, room_id: RoomID, user_id: UserID, event_id: EventID) -> bool:
        """Return whether the device has confirmed a member event."""
        room = self.confirmed.get(room_id)
        return room is not None and room.get(user_id) == event_id

    def set_pending(self, members: Iterable[SentMember], token: str) -> None:
        """Record the members of a response as pending under its `next_batch` token."""
        if token == self.pending_token:
            self.pending &= frozenset(members)
        else:
            self.pending, self.pending_token = frozenset(members), token

    def _confirm(self) -> None:
        for room_id, user_id, event_id in self.pending:
            room = self.confirmed.setdefault(room_id, {})
            self.count += user_id not in room
            room[user_id] = event_id
        while self.count > MAX_MEMBERS_PER_DEVICE and self.confirmed:
            room_id = next(iter(self.confirmed))
            self.count -= len(self.confirmed.pop(room_id))


class LazyMembers:
    """The records of all devices that sync through this process."""

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._devices: LruCache[tuple[UserID, str | None], SentMembers] = LruCache(
            "lazy_members", max_entries=max_devices
        )

    def for_device(self, user_id: UserID, device_id: str | None) -> SentMembers:
        """Return the record of one device; create it if it is missing."""
        key = (user_id, device_id)
        sent = self._devices.get(key)
        if sent is None:
            sent = SentMembers()
            self._devices.put(key, sent)
        return sent
