"""The published room directory: listing, search and pagination.

Spec: client-server API, Published Room Directory.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID
from hs.core.unpadded_base64 import decode_base64, encode_base64
from hs.services.directory.aliases import is_allowed
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import Database
from hs.storage.directory import room_directory
from hs.storage.directory.room_directory import ListedRoom, ListPosition, RoomListQuery

MAX_LIMIT: Final = 500
MAX_TERM: Final = 255

_START: Final = ListPosition(2**53, "")


@attrs.frozen
class PublicRoomsRequest:
    """A request for public rooms; None in `room_types` means rooms without a type.

    `network` selects the list of an application service's network, `all_networks` the rooms of all
    networks in addition to the server's own.
    """

    limit: int | None = None
    since: str | None = None
    term: str | None = None
    room_types: Sequence[str | None] | None = None
    network: str | None = None
    all_networks: bool = False


@attrs.frozen
class PublicRoomsPage:
    """A page of the directory; the tokens are None at its ends."""

    rooms: Sequence[ListedRoom]
    next_batch: str | None
    prev_batch: str | None
    total: int


@attrs.frozen
class RemoteRoomList:
    """A page of another server's directory, as that server renders it."""

    rooms: Sequence[JsonObject]
    total: int
    next_batch: str | None
    prev_batch: str | None


class RoomDirectories(Protocol):
    """Reads the room directories of other servers."""

    async def list_rooms(self, server: ServerName, request: PublicRoomsRequest) -> RemoteRoomList:
        """Return a page of another server's directory. Raises: RemoteFault."""
        ...


@attrs.frozen
class _Since:
    """A pagination token: the page begins after `place` or, backwards, ends before it."""

    place: ListPosition
    backwards: bool

    def encode(self) -> str:
        parts = ["b" if self.backwards else "f", *self.place]
        return encode_base64(orjson.dumps(parts)).replace("+", "-").replace("/", "_")

    @classmethod
    def parse(cls, text: str) -> "_Since":
        try:
            direction, members, room_id = orjson.loads(
                decode_base64(text.replace("-", "+").replace("_", "/"))
            )
        except (ValueError, TypeError) as error:
            raise InvalidParam("since is not a token of this endpoint") from error
        if direction not in ("b", "f") or type(members) is not int or type(room_id) is not str:
            raise InvalidParam("since is not a token of this endpoint")
        if not 0 <= members <= _START.joined_members or "\0" in room_id:
            raise InvalidParam("since is not a token of this endpoint")
        return cls(ListPosition(members, room_id), direction == "b")


@attrs.frozen(eq=False)
class PublicRooms:
    """The published room directory of this server."""

    _database: Database
    _settings: RoomSettings

    async def search(self, request: PublicRoomsRequest) -> PublicRoomsPage:
        """Return a page of the directory, rooms with most members first.

        Raises: InvalidParam for a negative limit or an invalid token.
        """
        if request.limit is not None and request.limit < 0:
            raise InvalidParam("limit must not be negative")
        if not self._settings.enable_room_list_search:
            return PublicRoomsPage((), None, None, 0)
        limit = min(request.limit or MAX_LIMIT, MAX_LIMIT)
        since = _Since(_START, backwards=False)
        if request.since:
            since = _Since.parse(request.since)
        query = _query_of(request)
        list_page = room_directory.list_before if since.backwards else room_directory.list_after
        rooms = await self._database.read(list_page, query, since.place, limit + 1)
        total = await self._database.read(room_directory.count_listed, query)
        if since.backwards:
            return _backward_page(rooms, limit, total)
        return _forward_page(rooms, limit, total, is_first=not request.since)

    async def is_listed(self, room_id: RoomID) -> bool:
        """Return whether a room is published. Raises: NotFound for an unknown room."""
        listed = await self._database.read(room_directory.is_listed, room_id)
        if listed is None:
            raise NotFound("Room not found")
        return listed

    async def set_listed(self, room_id: RoomID, listed: bool) -> None:
        """Publish a room or remove it from the directory; the caller has checked permissions.

        Raises: NotFound for an unknown room.
        """
        if not await self._database.write(room_directory.set_listed, room_id, listed):
            raise NotFound("Room not found")

    async def set_network_listed(self, network: str, room_id: RoomID, listed: bool) -> None:
        """Publish a room in an application service's network, or remove it.

        Raises: NotFound for an unknown room.
        """
        if not await self._database.write(
            room_directory.set_network_listed, network, room_id, listed
        ):
            raise NotFound("Room not found")

    def check_may_publish(
        self, user_id: UserID, room_id: str, aliases: Sequence[RoomAlias]
    ) -> None:
        """Apply the setting `room_list_publication_rules`. Raises: Forbidden."""
        rules = self._settings.room_list_publication_rules
        if not is_allowed(rules, user_id, room_id, tuple(aliases)):
            raise Forbidden("The server's rules do not allow you to publish this room")


def render_public_room(listed: ListedRoom) -> dict[str, Any]:
    """Render a room of the directory. Spec: PublishedRoomsChunk."""
    summary = listed.summary
    content: dict[str, Any] = {
        "room_id": listed.room_id,
        "num_joined_members": summary.joined_members,
        "world_readable": summary.history_visibility == "world_readable",
        "guest_can_join": summary.guest_access == "can_join",
        "join_rule": summary.join_rule or "invite",
    }
    for name in ("name", "topic", "canonical_alias", "avatar_url", "room_type"):
        value = getattr(summary, name)
        if value:
            content[name] = value
    return content


def _query_of(request: PublicRoomsRequest) -> RoomListQuery:
    term = (request.term or "").strip()[:MAX_TERM].lower()
    for special in ("\\", "%", "_"):
        term = term.replace(special, f"\\{special}")
    pattern = f"%{term}%" if term else ""
    lists = (request.network, request.all_networks)
    if request.room_types is None:
        return RoomListQuery(pattern, True, True, (), *lists)
    types = [room_type for room_type in request.room_types if room_type is not None]
    return RoomListQuery(pattern, False, None in request.room_types, types, *lists)


def _forward_page(
    rooms: list[ListedRoom], limit: int, total: int, *, is_first: bool
) -> PublicRoomsPage:
    page = rooms[:limit]
    has_more = len(rooms) > limit
    return PublicRoomsPage(
        page,
        _token_after(page) if has_more else None,
        None if is_first else _token_before(page),
        total,
    )


def _backward_page(rooms: list[ListedRoom], limit: int, total: int) -> PublicRoomsPage:
    page = rooms[-limit:]
    has_more = len(rooms) > limit
    return PublicRoomsPage(
        page, _token_after(page), _token_before(page) if has_more else None, total
    )


def _token_after(rooms: Sequence[ListedRoom]) -> str | None:
    return None if not rooms else _Since(_place(rooms[-1]), backwards=False).encode()


def _token_before(rooms: Sequence[ListedRoom]) -> str | None:
    return None if not rooms else _Since(_place(rooms[0]), backwards=True).encode()


def _place(listed: ListedRoom) -> ListPosition:
    return ListPosition(listed.summary.joined_members, listed.room_id)
