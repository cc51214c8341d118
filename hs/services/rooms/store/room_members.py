"""The joined and invited members of one room, in memory."""

from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, UserID

_ROOM_BYTES: Final = 500
_MEMBER_BYTES: Final = 250


@attrs.define(eq=False)
class PresentMembers:
    """The joined and invited members of one room, the earliest first.

    `joined` and `invited` map each member to the stream ID of the member event. `local` are the
    joined users of this server.
    """

    _suffix: str
    joined: dict[UserID, int] = attrs.Factory(dict)
    invited: dict[UserID, int] = attrs.Factory(dict)
    local: set[UserID] = attrs.Factory(set)
    weighed: int = 0  # number of members when the cache last weighed this
    weight: int = _ROOM_BYTES  # what the cache counts since then

    def __len__(self) -> int:
        return len(self.joined) + len(self.invited)

    @property
    def joined_count(self) -> int:
        """Number of joined members."""
        return len(self.joined)

    @property
    def invited_count(self) -> int:
        """Number of invited members."""
        return len(self.invited)

    def membership_of(self, user_id: UserID) -> str | None:
        """Return "join" or "invite"; None for all other users."""
        if user_id in self.joined:
            return event_types.JOIN
        return event_types.INVITE if user_id in self.invited else None

    def has_invited(self, server: ServerName) -> bool:
        """Return whether any user of a server is invited."""
        suffix = f":{server}"
        return any(user_id.endswith(suffix) for user_id in self.invited)

    def first_but(self, user_id: UserID, count: int) -> list[UserID]:
        """Return the earliest members except `user_id`, at most `count`."""
        earliest = [
            (stream_id, member)
            for members in (self.joined, self.invited)
            for member, stream_id in _first(members, count + 1)
            if member != user_id
        ]
        return [member for _, member in sorted(earliest)[:count]]

    def change(self, user_id: UserID, membership: str | None, stream_id: int) -> None:
        """Set a member's membership, unless a later member event is known."""
        known = self.joined.get(user_id) or self.invited.get(user_id)
        if known is not None and known > stream_id:
            return
        # Removed first, so that the dictionaries stay ordered by stream ID.
        self.joined.pop(user_id, None)
        self.invited.pop(user_id, None)
        self.local.discard(user_id)
        self.add(user_id, membership, stream_id)

    def add(self, user_id: UserID, membership: str | None, stream_id: int) -> None:
        """Add a user who is not among the members, later than all of them."""
        if membership == event_types.JOIN:
            self.joined[user_id] = stream_id
            if user_id.endswith(self._suffix):
                self.local.add(user_id)
        elif membership == event_types.INVITE:
            self.invited[user_id] = stream_id

    def weigh(self, at_most: int) -> None:
        """Estimate the memory that the members use, in bytes, as a weight of up to `at_most`."""
        self.weighed = len(self)
        size_bytes = _ROOM_BYTES + self.weighed * _MEMBER_BYTES
        self.weight = max(_ROOM_BYTES, min(at_most, size_bytes))


def weigh_members(room_id: RoomID, present: PresentMembers) -> int:
    """Return the weight of a room's members."""
    return present.weight


def _first(members: dict[UserID, int], count: int) -> list[tuple[UserID, int]]:
    return [pair for _, pair in zip(range(count), members.items(), strict=False)]
