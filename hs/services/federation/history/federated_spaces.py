"""Rooms and spaces that this server is not in, as other servers show them.

Responses are cached for CACHED_S, because each page of a hierarchy repeats the walk. The servers
that were asked are part of the key, so that a malicious one cannot change the results of others.

Spec: server-server API, Spaces.
"""

import logging
from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.canonical_json import encode_lenient, memory_of
from hs.core.errors import BadJson, RemoteFault
from hs.core.ids import RoomAlias, RoomID, ServerName
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.services.federation.requests.directory import get_space
from hs.services.federation_client.client import FederationClient
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.read.remote_spaces import RemoteSpace

CACHED_S: Final = 300
MAX_BYTES: Final = 16 << 20
MAX_SERVERS: Final = 3

_ENTRY_BYTES: Final = 1000
_Key = tuple[RoomID, bool, tuple[ServerName, ...]]

log = logging.getLogger(__name__)


@attrs.frozen
class _Answer:
    space: RemoteSpace | None
    until_ms: int
    weight: int


def _size_of(space: RemoteSpace) -> int:
    """Return about how many bytes a space takes. Raises: BadJson."""
    rooms = [space.room, *space.children.values(), *space.inaccessible]
    return memory_of(encode_lenient(rooms))


def _answers() -> LruCache[_Key, _Answer]:
    return LruCache(
        "remote_spaces", max_weight=MAX_BYTES, weigh=lambda _, answer: _ENTRY_BYTES + answer.weight
    )


@attrs.frozen(eq=False)
class FederatedSpaces:
    """The RemoteSpaces of a server with federation."""

    _client: FederationClient
    _rooms: RemoteRooms
    _clock: Clock
    _cached: LruCache[_Key, _Answer] = attrs.field(factory=_answers)
    _flights: SingleFlight[_Key] = attrs.field(factory=SingleFlight)

    async def find(
        self, room_id: RoomID, via: Sequence[ServerName], suggested_only: bool
    ) -> RemoteSpace | None:
        """Return a room as one of the servers shows it; see RemoteSpaces."""
        others = [server for server in via if server != self._client.server_name]
        if not others:
            return None
        key = (room_id, suggested_only, tuple(others[:MAX_SERVERS]))
        answer = self._cached.get(key)
        if answer is not None and answer.until_ms > self._clock.now_ms():
            return answer.space
        return await self._flights.run(key, self._ask, key)

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Resolve an alias of another server. Raises: NotFound, RemoteFault."""
        return await self._rooms.find_alias(alias)

    async def _ask(self, key: _Key) -> RemoteSpace | None:
        room_id, suggested_only, servers = key
        space, weight = None, 0
        for server in servers:
            try:
                found = await get_space(self._client, server, room_id, suggested_only)
                if found is not None:
                    space, weight = found, _size_of(found)
                    break
            except (RemoteFault, BadJson) as fault:
                log.info("could not fetch the hierarchy of room %s: %s", room_id, fault)
        self._cached.put(key, _Answer(space, self._clock.now_ms() + CACHED_S * 1000, weight))
        return space
