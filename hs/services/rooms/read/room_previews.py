"""Room previews: what a user who is not in a room may see of it.

Spec: client-server API, `/room_summary`; `/hierarchy`, which rooms are returned.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import NotFound
from hs.core.events import event_types
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, server_of
from hs.services.rooms.read.remote_spaces import RemoteSpaces, may_see
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database
from hs.storage.rooms import hierarchy, room_servers
from hs.storage.rooms.hierarchy import HierarchyRoomRecord

MAX_ALLOWED_ROOMS: Final = 20  # of which the members are looked at, for another server

_OPEN_RULES: Final = frozenset(
    (event_types.RULE_PUBLIC, event_types.RULE_KNOCK, event_types.RULE_KNOCK_RESTRICTED)
)
_RESTRICTED_RULES: Final = frozenset(
    (event_types.RULE_RESTRICTED, event_types.RULE_KNOCK_RESTRICTED)
)


@attrs.frozen
class RoomPreview:
    """A room's summary in the client format."""

    room_id: RoomID
    num_joined_members: int
    world_readable: bool
    guest_can_join: bool
    room_version: str
    join_rule: str
    name: str | None = None
    topic: str | None = None
    avatar_url: str | None = None
    canonical_alias: str | None = None
    room_type: str | None = None
    encryption: str | None = None
    allowed_room_ids: list[RoomID] | None = None
    membership: str | None = None


@attrs.frozen(eq=False)
class RoomPreviews:
    """Reads the previews of rooms for users who may see them."""

    _database: Database
    _states: StateStore
    _memberships: Memberships
    _server_name: ServerName
    _remote: RemoteSpaces

    async def find(
        self, user_id: UserID | None, room: RoomID | RoomAlias, via: Sequence[ServerName] = ()
    ) -> RoomPreview | JsonObject:
        """Return the preview of a room, for a user or without authentication.

        For users, the servers in `via` are asked about rooms that this server is not in.
        Raises: NotFound, also for rooms that the user may not see.
        """
        room_id, servers = await self._resolve(user_id, room)
        preview = (await self.previews(user_id, (room_id,))).get(room_id)
        if preview is not None:
            return preview
        if user_id is not None and not await self.local_rooms([room_id]):
            found = await self._remote.find(room_id, (*via, *servers), False)
            if found is not None and await self.may_see_remote(user_id, found.room):
                own = await self._memberships.local_membership(room_id, user_id)
                room_fields = {k: v for k, v in found.room.items() if k != "children_state"}
                return room_fields if own is None else {**room_fields, "membership": own.membership}
        raise NotFound("Room not found")

    async def local_rooms(self, room_ids: Sequence[RoomID]) -> set[RoomID]:
        """Return those of the rooms that this server is in."""
        read = self._database.read
        own = await read(room_servers.rooms_with, self._server_name, room_ids)
        return {RoomID(room_id) for room_id in own}

    async def may_see_remote(self, user_id: UserID, room: JsonObject) -> bool:
        """Return whether a user may see a room as other servers show it."""
        rooms = await self._memberships.rooms_of(user_id)
        own = rooms.get(RoomID(room["room_id"]))
        joined = [key for key, each in rooms.items() if each.membership == event_types.JOIN]
        return may_see(room, None if own is None else own.membership, joined)

    async def previews(
        self, user_id: UserID | None, room_ids: Collection[RoomID]
    ) -> dict[RoomID, RoomPreview]:
        """Return the previews of those rooms that a user may see."""
        if not room_ids:
            return {}
        records = await self._database.read(hierarchy.load_summaries, list(room_ids))
        rooms = {} if user_id is None else await self._memberships.rooms_of(user_id)
        previews: dict[RoomID, RoomPreview] = {}
        for room_id in room_ids:
            record = records.get(room_id)
            if record is None:
                continue
            own = rooms.get(room_id)
            membership = None if own is None else own.membership
            allowed = await self._allowed_rooms(record)
            may_join = any(
                (own_in_allowed := rooms.get(each)) is not None
                and own_in_allowed.membership == event_types.JOIN
                for each in allowed
            )
            if _may_preview(record, membership) or (may_join and membership != event_types.BAN):
                previews[room_id] = _preview(record, allowed, membership)
        return previews

    async def previews_of_server(
        self, server: ServerName, room_ids: Collection[RoomID]
    ) -> dict[RoomID, RoomPreview | None]:
        """Return the previews of rooms for another server, if this server is in them.

        The preview is None if no user of the other server may see the room.
        """
        records = await self._database.read(hierarchy.load_summaries, list(room_ids))
        read, rooms_with = self._database.read, room_servers.rooms_with
        own = await self.local_rooms(list(room_ids))
        previews: dict[RoomID, RoomPreview | None] = {}
        for room_id in room_ids:
            record = records.get(room_id)
            if record is None or room_id not in own:
                continue
            allowed = await self._allowed_rooms(record)
            is_visible = (
                _may_preview(record, None)
                or bool(await read(rooms_with, server, [room_id, *allowed[:MAX_ALLOWED_ROOMS]]))
                or (await self._memberships.present(room_id)).has_invited(server)
            )
            previews[room_id] = _preview(record, allowed, None) if is_visible else None
        return previews

    async def _resolve(
        self, user_id: UserID | None, room: RoomID | RoomAlias
    ) -> tuple[RoomID, Sequence[ServerName]]:
        if not room.startswith("#"):
            return RoomID(room), ()
        alias = RoomAlias(room)
        if user_id is not None and server_of(alias) != self._server_name:
            return await self._remote.find_alias(alias)
        room_id = await self._database.read(hierarchy.room_of_alias, room)
        if room_id is None:
            raise NotFound("Room not found")
        return RoomID(room_id), ()

    async def _allowed_rooms(self, record: HierarchyRoomRecord) -> list[RoomID]:
        if record.join_rule not in _RESTRICTED_RULES:
            return []
        rules = await self._states.current_event(RoomID(record.room_id), event_types.JOIN_RULES)
        return [] if rules is None else allowed_rooms(content_of(rules))


def allowed_rooms(join_rules: Mapping[str, Any]) -> list[RoomID]:
    """Return the rooms whose members may join, from the content of m.room.join_rules.

    Spec: Restricted rooms.
    """
    allow = join_rules.get("allow")
    if not isinstance(allow, list):
        return []
    return [
        RoomID(entry["room_id"])
        for entry in allow
        if isinstance(entry, dict)
        and entry.get("type") == "m.room_membership"
        and isinstance(entry.get("room_id"), str)
    ]


def _may_preview(record: HierarchyRoomRecord, membership: str | None) -> bool:
    if record.history_visibility == "world_readable":
        return True
    if membership in (event_types.JOIN, event_types.INVITE):
        return True
    rule = record.join_rule or event_types.RULE_INVITE
    return rule in _OPEN_RULES and membership != event_types.BAN


def _preview(
    record: HierarchyRoomRecord, allowed: list[RoomID], membership: str | None
) -> RoomPreview:
    return RoomPreview(
        room_id=RoomID(record.room_id),
        num_joined_members=record.joined_members,
        world_readable=record.history_visibility == "world_readable",
        guest_can_join=record.guest_access == "can_join",
        room_version=record.version,
        join_rule=record.join_rule or event_types.RULE_INVITE,
        name=record.name,
        topic=record.topic,
        avatar_url=record.avatar_url,
        canonical_alias=record.canonical_alias,
        room_type=record.room_type,
        encryption=record.encryption,
        allowed_room_ids=allowed or None,
        membership=membership,
    )
