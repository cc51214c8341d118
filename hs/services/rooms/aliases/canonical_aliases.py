"""Check an `m.room.canonical_alias` sent by a client: new aliases must point to the room.

Spec: client-server API, PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hs.core.errors import BadAlias, InvalidParam, MatrixError, NotFound, RemoteFault
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, parse_room_alias
from hs.services.directory.aliases import LocalAliases
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.store.state_store import StateStore


def aliases_in(content: Mapping[str, Any]) -> list[RoomAlias]:
    """Return the aliases in a content, the canonical alias first. Raises: InvalidParam."""
    alias = content.get("alias")
    alternatives = content.get("alt_aliases")
    if alias is not None and not isinstance(alias, str):
        raise InvalidParam("alias must be a string")
    if alternatives is not None and not isinstance(alternatives, list):
        raise InvalidParam("alt_aliases must be a list")
    canonical = [alias] if alias else []
    return [parse_room_alias(each) for each in (*canonical, *(alternatives or ()))]


@attrs.frozen(eq=False)
class AliasResolver:
    """Resolves aliases of all servers."""

    _aliases: LocalAliases
    _remote: RemoteRooms

    async def resolve(self, alias: RoomAlias) -> tuple[RoomID, Sequence[str]]:
        """Return an alias's room, and other servers in it. Raises: NotFound, RemoteFault."""
        if not self._aliases.is_local(alias):
            return await self._remote.find_alias(alias)
        local_alias = await self._aliases.find_or_query(alias)
        if local_alias is None:
            raise NotFound(f"Room alias {alias} not found.")
        return local_alias.room_id, ()


@attrs.frozen(eq=False)
class CanonicalAliasCheck:
    """Rejects canonical aliases that do not point to the room."""

    _resolver: AliasResolver
    _states: StateStore

    async def check(self, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Reject new aliases that do not point to the room; aliases that are set already may stay.

        Raises: InvalidParam, BadAlias.
        """
        aliases = aliases_in(content)
        if not aliases:
            return
        current = await self._states.current_event(room_id, event_types.CANONICAL_ALIAS)
        known = set() if current is None else _strings_in(current.event.content)
        for alias in aliases:
            if alias not in known:
                await self._check_points_to(alias, room_id)

    async def _check_points_to(self, alias: RoomAlias, room_id: RoomID) -> None:
        try:
            resolved_id, _ = await self._resolver.resolve(alias)
        except (MatrixError, RemoteFault) as error:
            raise BadAlias(f"The alias {alias} does not exist") from error
        if resolved_id != room_id:
            raise BadAlias(f"The alias {alias} points to another room")


def _strings_in(content: Mapping[str, Any]) -> set[str]:
    others = content.get("alt_aliases")
    listed = others if isinstance(others, list) else []
    return {alias for alias in (content.get("alias"), *listed) if isinstance(alias, str)}
