"""Checking an `m.room.canonical_alias` that a client sends: new aliases must point to the room.

Spec: client-server API, PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hs.core.errors import BadAlias, InvalidParam, MatrixError, NotFound, RemoteFault
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, parse_room_alias
from hs.services.directory.aliases import Aliases
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.store.state_store import StateStore


def aliases_in(content: Mapping[str, Any]) -> list[RoomAlias]:
    """List the aliases in a content, the canonical one first. Raises: InvalidParam."""
    alias = content.get("alias")
    others = content.get("alt_aliases")
    if alias is not None and not isinstance(alias, str):
        raise InvalidParam("alias must be a string")
    if others is not None and not isinstance(others, list):
        raise InvalidParam("alt_aliases must be a list")
    named = [alias] if alias else []
    return [parse_room_alias(one) for one in (*named, *(others or ()))]


@attrs.frozen(eq=False)
class AliasResolver:
    """Finds the rooms that aliases of any server stand for."""

    _aliases: Aliases
    _remote: RemoteRooms

    async def resolve(self, alias: RoomAlias) -> tuple[RoomID, Sequence[str]]:
        """Give an alias's room, and other servers that are in it. Raises: NotFound, RemoteFault."""
        if not self._aliases.is_local(alias):
            return await self._remote.find_alias(alias)
        found = await self._aliases.find_or_make(alias)
        if found is None:
            raise NotFound(f"Room alias {alias} not found.")
        return found.room_id, ()


@attrs.frozen(eq=False)
class CanonicalAliasCheck:
    """Refuses canonical aliases that are none."""

    _resolver: AliasResolver
    _states: StateStore

    async def check(self, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Refuse a content that names aliases of other rooms, or none; present ones may stay.

        Raises: InvalidParam, BadAlias.
        """
        wanted = aliases_in(content)
        if not wanted:
            return
        current = await self._states.current_event(room_id, event_types.CANONICAL_ALIAS)
        known = set() if current is None else _strings_in(current.event.content)
        for alias in wanted:
            if alias not in known:
                await self._check_points_to(alias, room_id)

    async def _check_points_to(self, alias: RoomAlias, room_id: RoomID) -> None:
        try:
            found, _ = await self._resolver.resolve(alias)
        except (MatrixError, RemoteFault) as error:
            raise BadAlias(f"The alias {alias} does not exist") from error
        if found != room_id:
            raise BadAlias(f"The alias {alias} is of another room")


def _strings_in(content: Mapping[str, Any]) -> set[str]:
    others = content.get("alt_aliases")
    listed = others if isinstance(others, list) else []
    return {one for one in (content.get("alias"), *listed) if isinstance(one, str)}
