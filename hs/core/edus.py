"""Ephemeral data units: their types, and which rooms one speaks of.

Spec: server-server API, EDUs.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.ids import RoomID

TYPING: Final = "m.typing"
PRESENCE: Final = "m.presence"
RECEIPT: Final = "m.receipt"
DEVICE_LIST_UPDATE: Final = "m.device_list_update"
SIGNING_KEY_UPDATE: Final = "m.signing_key_update"
DIRECT_TO_DEVICE: Final = "m.direct_to_device"


@attrs.frozen
class Edu:
    """One EDU of a transaction, its content not yet checked."""

    edu_type: str
    content: Mapping[str, Any]


def parse_edu(value: object) -> Edu | None:
    """Read one EDU of a transaction; None if it is not one, for a transaction skips those."""
    if not isinstance(value, Mapping):
        return None
    edu_type, content = value.get("edu_type"), value.get("content")
    if not isinstance(edu_type, str) or not isinstance(content, Mapping):
        return None
    return Edu(edu_type, content)


def within_rooms(edu: Edu, denied: frozenset[RoomID]) -> Edu | None:
    """Leave out what an EDU says of rooms whose server ACL denies its sender.

    Gives None when nothing is left. Spec: server-server API, Server Access Control Lists.
    """
    if edu.edu_type == TYPING:
        return None if edu.content.get("room_id") in denied else edu
    if edu.edu_type == RECEIPT:
        kept = {room: seen for room, seen in edu.content.items() if room not in denied}
        return attrs.evolve(edu, content=kept) if kept else None
    return edu


def rooms_of(edu: Edu) -> frozenset[RoomID]:
    """Give the rooms that an EDU is local to, for their ACLs."""
    if edu.edu_type == TYPING:
        room_id = edu.content.get("room_id")
        return frozenset({RoomID(room_id)}) if isinstance(room_id, str) else frozenset()
    if edu.edu_type == RECEIPT:
        return frozenset(RoomID(room_id) for room_id in edu.content)
    return frozenset()
