"""Requests for the room directories and space hierarchies of other servers.

Malformed fields of a response are ignored.

Spec: server-server API, Published Room Directory; Spaces.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.errors import InvalidParam
from hs.core.ids import RoomID, ServerName, parse_room_id
from hs.services.directory.public_rooms import PublicRoomsRequest, RemoteRoomList
from hs.services.federation_client.client import FederationClient, segment, uri_of
from hs.services.rooms.read.remote_spaces import RemoteSpace

PREFIX: Final = "/_matrix/federation/v1"
TIMEOUT_S: Final = 15.0
MAX_LIST_BYTES: Final = 4 << 20
MAX_SPACE_BYTES: Final = 2 << 20
MAX_ROOMS: Final = 500
MAX_CHILDREN: Final = 500
MAX_TOKEN: Final = 4096

_REQUIRED: Final[Mapping[str, type]] = {
    "num_joined_members": int,
    "world_readable": bool,
    "guest_can_join": bool,
}
_TEXT_FIELDS: Final = (
    *("name", "topic", "canonical_alias", "avatar_url", "join_rule", "room_type"),
    *("encryption", "room_version"),
)


async def list_public_rooms(
    client: FederationClient, server: ServerName, request: PublicRoomsRequest
) -> RemoteRoomList:
    """Return a page of another server's directory. Raises: RemoteFault."""
    room_filter = {"generic_search_term": request.term, "room_types": request.room_types}
    fields = {
        "limit": request.limit,
        "since": request.since,
        "third_party_instance_id": request.network,
        "include_all_networks": request.all_networks or None,
        "filter": {key: value for key, value in room_filter.items() if value is not None} or None,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    if "filter" in given or "include_all_networks" in given:
        method, uri, body = "POST", f"{PREFIX}/publicRooms", canonical_json(given)
    else:
        query = {key: str(value) for key, value in given.items()}
        method, uri, body = "GET", uri_of(f"{PREFIX}/publicRooms", query), None
    response = await client.request(
        server, method, uri, body, timeout_s=TIMEOUT_S, max_bytes=MAX_LIST_BYTES
    )
    total = response.get("total_room_count_estimate")
    rooms = [room for each in _list(response, "chunk", MAX_ROOMS) if (room := _room(each))]
    return RemoteRoomList(
        rooms,
        total if type(total) is int else len(rooms),
        _token(response.get("next_batch")),
        _token(response.get("prev_batch")),
    )


async def get_space(
    client: FederationClient, server: ServerName, room_id: RoomID, suggested_only: bool
) -> RemoteSpace | None:
    """Return a room and its children; None if the response is about another room.

    Raises: RemoteFault.
    """
    response = await client.get(
        server,
        f"{PREFIX}/hierarchy/{segment(room_id)}",
        {"suggested_only": "true" if suggested_only else "false"},
        timeout_s=TIMEOUT_S,
        max_bytes=MAX_SPACE_BYTES,
    )
    room = _space_room(response.get("room"))
    if room is None or room["room_id"] != room_id:
        return None
    children = [_space_room(each) for each in _list(response, "children", MAX_CHILDREN)]
    inaccessible = _list(response, "inaccessible_children", MAX_CHILDREN)
    return RemoteSpace(
        room,
        {RoomID(child["room_id"]): child for child in children if child is not None},
        frozenset(RoomID(each) for each in inaccessible if isinstance(each, str)),
    )


def _space_room(value: Any) -> JsonObject | None:
    room = _room(value)
    if room is None:
        return None
    allowed = _list(value, "allowed_room_ids", MAX_CHILDREN)
    room["allowed_room_ids"] = [each for each in allowed if isinstance(each, str)]
    states = [_child_state(each) for each in _list(value, "children_state", MAX_CHILDREN)]
    room["children_state"] = [state for state in states if state is not None]
    return room


def _room(value: Any) -> JsonObject | None:
    if not isinstance(value, dict):
        return None
    try:
        room: JsonObject = {"room_id": parse_room_id(value.get("room_id"))}
    except InvalidParam:
        return None
    for name, kind in _REQUIRED.items():
        if type(value.get(name)) is not kind:
            return None
        room[name] = value[name]
    room.update((name, value[name]) for name in _TEXT_FIELDS if isinstance(value.get(name), str))
    return room


def _child_state(value: Any) -> JsonObject | None:
    if not isinstance(value, dict) or value.get("type") != "m.space.child":
        return None
    texts = ("type", "state_key", "sender")
    if any(not isinstance(value.get(name), str) for name in texts):
        return None
    if not isinstance(value.get("content"), dict) or type(value.get("origin_server_ts")) is not int:
        return None
    return {name: value[name] for name in (*texts, "content", "origin_server_ts")}


def _list(holder: Mapping[str, Any], name: str, most: int) -> list[Any]:
    value = holder.get(name)
    return value[:most] if isinstance(value, list) else []


def _token(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= MAX_TOKEN else None


@attrs.frozen(eq=False)
class RemoteRoomDirectories:
    """The RoomDirectories of a server with federation."""

    _client: FederationClient

    async def list_rooms(self, server: ServerName, request: PublicRoomsRequest) -> RemoteRoomList:
        """Return a page of another server's directory. Raises: RemoteFault."""
        return await list_public_rooms(self._client, server, request)
