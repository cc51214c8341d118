"""The interface for rooms and spaces that only other servers are in."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, ServerName

_OPEN_RULES = (event_types.RULE_PUBLIC, event_types.RULE_KNOCK, event_types.RULE_KNOCK_RESTRICTED)
_RESTRICTED_RULES = (event_types.RULE_RESTRICTED, event_types.RULE_KNOCK_RESTRICTED)


@attrs.frozen
class RemoteSpace:
    """A room as another server shows it, with `children_state`, and those of its children.

    `inaccessible` are children that the other server knows, and this one may not see.
    """

    room: JsonObject
    children: Mapping[RoomID, JsonObject]
    inaccessible: AbstractSet[RoomID]


class RemoteSpaces(Protocol):
    """Asks other servers about rooms that this server is not in."""

    async def find(
        self, room_id: RoomID, via: Sequence[ServerName], suggested_only: bool
    ) -> RemoteSpace | None:
        """Return a room as one of the servers shows it; None if nobody does."""
        ...

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Resolve an alias of another server. Raises: NotFound, RemoteFault."""
        ...


def may_see(room: JsonObject, membership: str | None, joined: Collection[RoomID]) -> bool:
    """Return whether a user may see a room of other servers.

    `membership` is the user's own, as far as this server knows; `joined` are the user's rooms.
    """
    if membership == event_types.BAN:
        return False
    if room["world_readable"] or membership in (event_types.JOIN, event_types.INVITE):
        return True
    rule = room.get("join_rule", event_types.RULE_PUBLIC)
    if rule in _OPEN_RULES:
        return True
    return rule in _RESTRICTED_RULES and any(each in joined for each in room["allowed_room_ids"])
