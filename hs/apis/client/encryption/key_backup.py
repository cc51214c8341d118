"""Key backups."""

from typing import Any

import attrs
import orjson

from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.devices.key_backup import (
    BackupState,
    BackupVersion,
    KeyBackups,
    Opaque,
    Scope,
    SessionKey,
)

_BASE = "/_matrix/client/v3/room_keys"
_UNSTABLE = "/_matrix/client/unstable/room_keys"
MAX_UPLOAD_BYTES = 16 * 1024 * 1024


@attrs.frozen
class CreateRequest:
    """Body of `POST /room_keys/version`."""

    requester: Requester
    algorithm: str = body()
    auth_data: Opaque = body()


@attrs.frozen
class VersionRequest:
    """Path of `/room_keys/version/{version}`."""

    requester: Requester
    version: str | None = path(default=None)


@attrs.frozen
class DeleteVersionRequest:
    """Path of `DELETE /room_keys/version/{version}`."""

    requester: Requester
    version: str = path()


@attrs.frozen
class UpdateRequest:
    """Path and body of `PUT /room_keys/version/{version}`."""

    requester: Requester
    version: str = path()
    algorithm: str = body()
    auth_data: Opaque = body()
    version_in_body: str | None = body(default=None, name="version")


@attrs.frozen
class RoomSessions:
    """The keys of one room."""

    sessions: dict[str, SessionKey]


@attrs.frozen
class PutAllRequest:
    """Query and body of `PUT /room_keys/keys`."""

    requester: Requester
    version: str = query()
    rooms: dict[str, RoomSessions] = body()


@attrs.frozen
class PutRoomRequest:
    """Path, query and body of `PUT /room_keys/keys/{roomId}`."""

    requester: Requester
    room_id: str = path()
    version: str = query()
    sessions: dict[str, SessionKey] = body()


@attrs.frozen
class PutSessionRequest:
    """Path, query and body of `PUT /room_keys/keys/{roomId}/{sessionId}`."""

    requester: Requester
    room_id: str = path()
    session_id: str = path()
    version: str = query()
    first_message_index: int = body()
    forwarded_count: int = body()
    is_verified: bool = body()
    session_data: Opaque = body()


@attrs.frozen
class KeysRequest:
    """Path and query of getting and deleting keys."""

    requester: Requester
    version: str = query()
    room_id: str | None = path(default=None)
    session_id: str | None = path(default=None)


@attrs.frozen
class KeyBackupApi:
    """`/room_keys/…`."""

    backups: KeyBackups

    @route("POST", _BASE + "/version", also=[_UNSTABLE + "/version"])
    async def create(self, request: CreateRequest) -> dict[str, str]:
        """Spec: client-server API, Server-side key backups."""
        version = await self.backups.create(
            request.requester.user_id, request.algorithm, request.auth_data
        )
        return {"version": version}

    @route(
        "GET",
        _BASE + "/version/{version}",
        also=[
            _BASE + "/version",
            _UNSTABLE + "/version/{version}",
            _UNSTABLE + "/version",
        ],
    )
    async def version(self, request: VersionRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        # An empty name is what is left of a path with a slash at its end.
        found = await self.backups.version(request.requester.user_id, request.version or None)
        return _version(found)

    @route("PUT", _BASE + "/version/{version}", also=[_UNSTABLE + "/version/{version}"])
    async def update(self, request: UpdateRequest) -> Empty:
        """Spec: client-server API, Server-side key backups."""
        await self.backups.update(
            request.requester.user_id,
            request.version,
            request.algorithm,
            request.auth_data,
            request.version_in_body,
        )
        return Empty()

    @route("DELETE", _BASE + "/version/{version}", also=[_UNSTABLE + "/version/{version}"])
    async def delete(self, request: DeleteVersionRequest) -> Empty:
        """Spec: client-server API, Server-side key backups."""
        await self.backups.delete(request.requester.user_id, request.version)
        return Empty()

    @route("PUT", _BASE + "/keys", also=[_UNSTABLE + "/keys"], max_body_bytes=MAX_UPLOAD_BYTES)
    async def put_all(self, request: PutAllRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        rooms = {room_id: one.sessions for room_id, one in request.rooms.items()}
        return await self.backups.put(request.requester.user_id, request.version, rooms)

    @route(
        "PUT",
        _BASE + "/keys/{room_id}",
        also=[_UNSTABLE + "/keys/{room_id}"],
        max_body_bytes=MAX_UPLOAD_BYTES,
    )
    async def put_room(self, request: PutRoomRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        rooms = {request.room_id: request.sessions}
        return await self.backups.put(request.requester.user_id, request.version, rooms)

    @route(
        "PUT",
        _BASE + "/keys/{room_id}/{session_id}",
        also=[_UNSTABLE + "/keys/{room_id}/{session_id}"],
    )
    async def put_session(self, request: PutSessionRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        key = SessionKey(
            request.first_message_index,
            request.forwarded_count,
            request.is_verified,
            request.session_data,
        )
        rooms = {request.room_id: {request.session_id: key}}
        return await self.backups.put(request.requester.user_id, request.version, rooms)

    @route("GET", _BASE + "/keys", also=[_UNSTABLE + "/keys"])
    async def get_all(self, request: KeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        rooms = await self._get(request)
        return {"rooms": {room_id: {"sessions": one} for room_id, one in rooms.items()}}

    @route("GET", _BASE + "/keys/{room_id}", also=[_UNSTABLE + "/keys/{room_id}"])
    async def get_room(self, request: KeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        rooms = await self._get(request)
        return {"sessions": rooms.get(request.room_id or "", {})}

    @route(
        "GET",
        _BASE + "/keys/{room_id}/{session_id}",
        also=[_UNSTABLE + "/keys/{room_id}/{session_id}"],
    )
    async def get_session(self, request: KeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        rooms = await self._get(request)
        return rooms[request.room_id or ""][request.session_id or ""]

    @route(
        "DELETE",
        _BASE + "/keys/{room_id}/{session_id}",
        also=[
            _BASE + "/keys/{room_id}",
            _BASE + "/keys",
            _UNSTABLE + "/keys/{room_id}/{session_id}",
            _UNSTABLE + "/keys/{room_id}",
            _UNSTABLE + "/keys",
        ],
    )
    async def delete_keys(self, request: KeysRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        return await self.backups.delete_keys(
            request.requester.user_id, request.version, _scope(request)
        )

    async def _get(self, request: KeysRequest) -> dict[str, dict[str, dict[str, Any]]]:
        return await self.backups.get(request.requester.user_id, request.version, _scope(request))


def _scope(request: KeysRequest) -> Scope:
    return Scope(request.room_id, request.session_id)


def _version(found: BackupVersion) -> dict[str, Any]:
    return {
        "version": found.version,
        "algorithm": found.algorithm,
        "auth_data": orjson.Fragment(found.auth_data),
        "etag": found.etag,
        "count": found.count,
    }
