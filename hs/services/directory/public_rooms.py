"""The directory of rooms: which are listed, and searching and paging through them.

Spec: client-server API, Published Room Directory.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.core.ids import RoomAlias, RoomID, UserID
from hs.core.unpadded_base64 import decode_base64, encode_base64
from hs.services.directory.aliases import is_allowed
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import Database
from hs.storage.directory import room_directory
from hs.storage.directory.room_directory import ListedRoom, Place, Wanted

MAX_LIMIT: Final = 500
MAX_TERM: Final = 255

_START: Final = Place(2**53, "")


@attrs.frozen
class Search:
    """What a client asks of the list; `room_types` None means all, a None in it the untyped.

    `network` asks for the list of an application service's network, `all_networks` for the rooms
    of all of them as well as the server's own.
    """

    limit: int | None = None
    since: str | None = None
    term: str | None = None
    room_types: Sequence[str | None] | None = None
    network: str | None = None
    all_networks: bool = False


@attrs.frozen
class Page:
    """A part of the list; the tokens are None at its ends."""

    rooms: Sequence[ListedRoom]
    next_batch: str | None
    prev_batch: str | None
    total: int


@attrs.frozen
class _Since:
    """Where a page begins or, backwards, ends."""

    place: Place
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
        except (ValueError, TypeError) as fault:
            raise InvalidParam("since is not a token of this list") from fault
        if direction not in ("b", "f") or type(members) is not int or type(room_id) is not str:
            raise InvalidParam("since is not a token of this list")
        if not 0 <= members <= _START.joined_members or "\0" in room_id:
            raise InvalidParam("since is not a token of this list")
        return cls(Place(members, room_id), direction == "b")


@attrs.frozen(eq=False)
class PublicRooms:
    """The directory of this server's rooms."""

    _database: Database
    _settings: RoomSettings

    async def search(self, asked: Search) -> Page:
        """Give a page of the list, the rooms with most members first.

        Raises: InvalidParam for a token that is none.
        """
        if asked.limit is not None and asked.limit < 0:
            raise InvalidParam("limit must not be negative")
        if not self._settings.enable_room_list_search:
            return Page((), None, None, 0)
        limit = min(asked.limit or MAX_LIMIT, MAX_LIMIT)
        since = _Since(_START, backwards=False)
        if asked.since:
            since = _Since.parse(asked.since)
        wanted = _wanted(asked)
        read = room_directory.list_before if since.backwards else room_directory.list_after
        rooms = await self._database.read(read, wanted, since.place, limit + 1)
        total = await self._database.read(room_directory.count_listed, wanted)
        if since.backwards:
            return _page_back(rooms, limit, total)
        return _page_on(rooms, limit, total, is_first=not asked.since)

    async def is_listed(self, room_id: RoomID) -> bool:
        """Tell whether a room is listed. Raises: NotFound for an unknown room."""
        listed = await self._database.read(room_directory.is_listed, room_id)
        if listed is None:
            raise NotFound("Room not found")
        return listed

    async def set_listed(self, room_id: RoomID, listed: bool) -> None:
        """List a room, or do not; whether one may is decided before.

        Raises: NotFound for an unknown room.
        """
        if not await self._database.write(room_directory.set_listed, room_id, listed):
            raise NotFound("Room not found")

    async def set_network_listed(self, network: str, room_id: RoomID, listed: bool) -> None:
        """List a room in an application service's network, or do not.

        Raises: NotFound for an unknown room.
        """
        if not await self._database.write(
            room_directory.set_network_listed, network, room_id, listed
        ):
            raise NotFound("Room not found")

    def check_may_publish(
        self, user_id: UserID, room_id: str, aliases: Sequence[RoomAlias]
    ) -> None:
        """Refuse what the settings' `room_list_publication_rules` forbid. Raises: Forbidden."""
        rules = self._settings.room_list_publication_rules
        if not is_allowed(rules, user_id, room_id, tuple(aliases)):
            raise Forbidden("You may not publish this room in the directory")


def public_room(listed: ListedRoom) -> dict[str, Any]:
    """Give a room as lists show it. Spec: PublishedRoomsChunk."""
    summary = listed.summary
    shown: dict[str, Any] = {
        "room_id": listed.room_id,
        "num_joined_members": summary.joined_members,
        "world_readable": summary.history_visibility == "world_readable",
        "guest_can_join": summary.guest_access == "can_join",
        "join_rule": summary.join_rule or "invite",
    }
    for name in ("name", "topic", "canonical_alias", "avatar_url", "room_type"):
        value = getattr(summary, name)
        if value:
            shown[name] = value
    return shown


def _wanted(asked: Search) -> Wanted:
    term = (asked.term or "").strip()[:MAX_TERM].lower()
    for special in ("\\", "%", "_"):
        term = term.replace(special, f"\\{special}")
    pattern = f"%{term}%" if term else ""
    lists = (asked.network, asked.all_networks)
    if asked.room_types is None:
        return Wanted(pattern, True, True, (), *lists)
    types = [one for one in asked.room_types if one is not None]
    return Wanted(pattern, False, None in asked.room_types, types, *lists)


def _page_on(rooms: list[ListedRoom], limit: int, total: int, *, is_first: bool) -> Page:
    shown = rooms[:limit]
    has_more = len(rooms) > limit
    return Page(
        shown,
        _after(shown) if has_more else None,
        None if is_first else _before(shown),
        total,
    )


def _page_back(rooms: list[ListedRoom], limit: int, total: int) -> Page:
    shown = rooms[-limit:]
    has_more = len(rooms) > limit
    return Page(shown, _after(shown), _before(shown) if has_more else None, total)


def _after(rooms: Sequence[ListedRoom]) -> str | None:
    return None if not rooms else _Since(_place(rooms[-1]), backwards=False).encode()


def _before(rooms: Sequence[ListedRoom]) -> str | None:
    return None if not rooms else _Since(_place(rooms[0]), backwards=True).encode()


def _place(listed: ListedRoom) -> Place:
    return Place(listed.summary.joined_members, listed.room_id)
