"""Ephemeral data units (EDUs): their types, parsing, and the rooms that they refer to.

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
    """An EDU of a federation transaction; its content is not checked yet."""

    edu_type: str
    content: Mapping[str, Any]


def parse_edu(value: object) -> Edu | None:
    """Parse one EDU of a transaction; return None if it is malformed.

    A transaction is not rejected for a malformed EDU: the EDU is skipped.
    """
    if not isinstance(value, Mapping):
        return None
    edu_type, content = value.get("edu_type"), value.get("content")
    if not isinstance(edu_type, str) or not isinstance(content, Mapping):
        return None
    return Edu(edu_type, content)


def without_denied_rooms(edu: Edu, denied: frozenset[RoomID]) -> Edu | None:
    """Return an EDU without the parts about rooms whose server ACL denies its sender.

    Return None if nothing is left. Spec: server-server API, Server Access Control Lists.
    """
    if edu.edu_type == TYPING:
        return None if edu.content.get("room_id") in denied else edu
    if edu.edu_type == RECEIPT:
        allowed = {room: receipts for room, receipts in edu.content.items() if room not in denied}
        return attrs.evolve(edu, content=allowed) if allowed else None
    return edu


def rooms_of_edu(edu: Edu) -> frozenset[RoomID]:
    """Return the rooms that an EDU is about and whose server ACLs apply to it."""
    if edu.edu_type == TYPING:
        room_id = edu.content.get("room_id")
        return frozenset({RoomID(room_id)}) if isinstance(room_id, str) else frozenset()
    if edu.edu_type == RECEIPT:
        return frozenset(RoomID(room_id) for room_id in edu.content)
    return frozenset()
