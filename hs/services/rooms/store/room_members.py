"""Who is joined to and invited to one room, kept in memory."""

from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID

_ROOM_BYTES: Final = 500
_MEMBER_BYTES: Final = 250


@attrs.define(eq=False)
class Present:
    """The members of one room who are joined or invited, the earliest first.

    The numbers are those of the member events. `local` are the joined users of this server.
    """

    _suffix: str
    joined: dict[UserID, int] = attrs.Factory(dict)
    invited: dict[UserID, int] = attrs.Factory(dict)
    local: set[UserID] = attrs.Factory(set)
    weighed: int = 0  # how many there were when the cache last weighed this

    def __len__(self) -> int:
        return len(self.joined) + len(self.invited)

    @property
    def joined_count(self) -> int:
        """Give how many are joined."""
        return len(self.joined)

    @property
    def invited_count(self) -> int:
        """Give how many are invited."""
        return len(self.invited)

    def membership_of(self, user_id: UserID) -> str | None:
        """Give a membership that counts as present."""
        if user_id in self.joined:
            return event_types.JOIN
        return event_types.INVITE if user_id in self.invited else None

    def first_but(self, user_id: UserID, count: int) -> list[UserID]:
        """Give the members who have been here for longest, but for one."""
        heads = [
            (number, member)
            for members in (self.joined, self.invited)
            for member, number in _first(members, count + 1)
            if member != user_id
        ]
        return [member for _, member in sorted(heads)[:count]]

    def change(self, user_id: UserID, membership: str | None, stream_id: int) -> None:
        """Note a member's new membership; of two facts the later one counts."""
        known = self.joined.get(user_id) or self.invited.get(user_id)
        if known is not None and known > stream_id:
            return
        # Taken out first, so that the order stays that of the numbers.
        self.joined.pop(user_id, None)
        self.invited.pop(user_id, None)
        self.local.discard(user_id)
        if membership == event_types.JOIN:
            self.joined[user_id] = stream_id
            if user_id.endswith(self._suffix):
                self.local.add(user_id)
        elif membership == event_types.INVITE:
            self.invited[user_id] = stream_id


def weigh_present(room_id: RoomID, present: Present) -> int:
    """Give about how many bytes a room's members take."""
    return _ROOM_BYTES + present.weighed * _MEMBER_BYTES


def _first(members: dict[UserID, int], count: int) -> list[tuple[UserID, int]]:
    return [pair for _, pair in zip(range(count), members.items(), strict=False)]
