"""Server-side key backups."""

from typing import Any

import attrs
import orjson

from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.devices.key_backup import (
    BackupScope,
    BackupState,
    BackupVersion,
    KeyBackups,
    OpaqueData,
    SessionKey,
)

_BASE = "/_matrix/client/v3/room_keys"
_UNSTABLE = "/_matrix/client/unstable/room_keys"
# About 3,000 keys; clients send 200 at a time. Decoding JSON blocks all other requests meanwhile.
MAX_UPLOAD_BYTES = 2 * 1024 * 1024


@attrs.frozen
class CreateBackupVersionRequest:
    """POST /room_keys/version."""

    requester: Requester
    algorithm: str = body()
    auth_data: OpaqueData = body()


@attrs.frozen
class GetBackupVersionRequest:
    """GET /room_keys/version and /room_keys/version/{version}."""

    requester: Requester
    version: str | None = path(default=None)


@attrs.frozen
class DeleteBackupVersionRequest:
    """DELETE /room_keys/version/{version}."""

    requester: Requester
    version: str = path()


@attrs.frozen
class UpdateBackupVersionRequest:
    """PUT /room_keys/version/{version}."""

    requester: Requester
    version: str = path()
    algorithm: str = body()
    auth_data: OpaqueData = body()
    version_in_body: str | None = body(default=None, name="version")


@attrs.frozen
class RoomSessionKeys:
    """The keys of the sessions of one room."""

    sessions: dict[str, SessionKey]


@attrs.frozen
class PutRoomKeysRequest:
    """PUT /room_keys/keys."""

    requester: Requester
    version: str = query()
    rooms: dict[str, RoomSessionKeys] = body()


@attrs.frozen
class PutKeysOfRoomRequest:
    """PUT /room_keys/keys/{roomId}."""

    requester: Requester
    room_id: str = path()
    version: str = query()
    sessions: dict[str, SessionKey] = body()


@attrs.frozen
class PutKeyOfSessionRequest:
    """PUT /room_keys/keys/{roomId}/{sessionId}."""

    requester: Requester
    room_id: str = path()
    session_id: str = path()
    version: str = query()
    first_message_index: int = body()
    forwarded_count: int = body()
    is_verified: bool = body()
    session_data: OpaqueData = body()


@attrs.frozen
class RoomKeysRequest:
    """GET and DELETE /room_keys/keys, /{roomId} and /{roomId}/{sessionId}."""

    requester: Requester
    version: str = query()
    room_id: str | None = path(default=None)
    session_id: str | None = path(default=None)


@attrs.frozen
class KeyBackupApi:
    """Endpoints of key backups."""

    backups: KeyBackups

    @route("POST", _BASE + "/version", extra_paths=[_UNSTABLE + "/version"])
    async def create_version(self, request: CreateBackupVersionRequest) -> dict[str, str]:
        """Spec: client-server API, Server-side key backups."""
        version = await self.backups.create(
            request.requester.user_id, request.algorithm, request.auth_data
        )
        return {"version": version}

    @route(
        "GET",
        _BASE + "/version/{version}",
        extra_paths=[
            _BASE + "/version",
            _UNSTABLE + "/version/{version}",
            _UNSTABLE + "/version",
        ],
    )
    async def get_version(self, request: GetBackupVersionRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        # The version is empty if the path ends with a slash.
        version = await self.backups.version(request.requester.user_id, request.version or None)
        return _rendered(version)

    @route("PUT", _BASE + "/version/{version}", extra_paths=[_UNSTABLE + "/version/{version}"])
    async def update_version(self, request: UpdateBackupVersionRequest) -> Empty:
        """Spec: client-server API, Server-side key backups."""
        await self.backups.update(
            request.requester.user_id,
            request.version,
            request.algorithm,
            request.auth_data,
            request.version_in_body,
        )
        return Empty()

    @route("DELETE", _BASE + "/version/{version}", extra_paths=[_UNSTABLE + "/version/{version}"])
    async def delete_version(self, request: DeleteBackupVersionRequest) -> Empty:
        """Spec: client-server API, Server-side key backups."""
        await self.backups.delete(request.requester.user_id, request.version)
        return Empty()

    @route(
        "PUT", _BASE + "/keys", extra_paths=[_UNSTABLE + "/keys"], max_body_bytes=MAX_UPLOAD_BYTES
    )
    async def put_room_keys(self, request: PutRoomKeysRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        rooms = {room_id: keys.sessions for room_id, keys in request.rooms.items()}
        return await self.backups.put(request.requester.user_id, request.version, rooms)

    @route(
        "PUT",
        _BASE + "/keys/{room_id}",
        extra_paths=[_UNSTABLE + "/keys/{room_id}"],
        max_body_bytes=MAX_UPLOAD_BYTES,
    )
    async def put_keys_of_room(self, request: PutKeysOfRoomRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        rooms = {request.room_id: request.sessions}
        return await self.backups.put(request.requester.user_id, request.version, rooms)

    @route(
        "PUT",
        _BASE + "/keys/{room_id}/{session_id}",
        extra_paths=[_UNSTABLE + "/keys/{room_id}/{session_id}"],
    )
    async def put_key_of_session(self, request: PutKeyOfSessionRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        key = SessionKey(
            request.first_message_index,
            request.forwarded_count,
            request.is_verified,
            request.session_data,
        )
        rooms = {request.room_id: {request.session_id: key}}
        return await self.backups.put(request.requester.user_id, request.version, rooms)

    @route("GET", _BASE + "/keys", extra_paths=[_UNSTABLE + "/keys"])
    async def get_room_keys(self, request: RoomKeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        rooms = await self._get(request)
        return {"rooms": {room_id: {"sessions": sessions} for room_id, sessions in rooms.items()}}

    @route("GET", _BASE + "/keys/{room_id}", extra_paths=[_UNSTABLE + "/keys/{room_id}"])
    async def get_keys_of_room(self, request: RoomKeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        rooms = await self._get(request)
        return {"sessions": rooms.get(request.room_id or "", {})}

    @route(
        "GET",
        _BASE + "/keys/{room_id}/{session_id}",
        extra_paths=[_UNSTABLE + "/keys/{room_id}/{session_id}"],
    )
    async def get_key_of_session(self, request: RoomKeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Server-side key backups."""
        rooms = await self._get(request)
        return rooms[request.room_id or ""][request.session_id or ""]

    @route(
        "DELETE",
        _BASE + "/keys/{room_id}/{session_id}",
        extra_paths=[
            _BASE + "/keys/{room_id}",
            _BASE + "/keys",
            _UNSTABLE + "/keys/{room_id}/{session_id}",
            _UNSTABLE + "/keys/{room_id}",
            _UNSTABLE + "/keys",
        ],
    )
    async def delete_room_keys(self, request: RoomKeysRequest) -> BackupState:
        """Spec: client-server API, Server-side key backups."""
        return await self.backups.delete_keys(
            request.requester.user_id, request.version, _scope(request)
        )

    async def _get(self, request: RoomKeysRequest) -> dict[str, dict[str, dict[str, Any]]]:
        return await self.backups.get(request.requester.user_id, request.version, _scope(request))


def _scope(request: RoomKeysRequest) -> BackupScope:
    return BackupScope(request.room_id, request.session_id)


def _rendered(version: BackupVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "algorithm": version.algorithm,
        "auth_data": orjson.Fragment(version.auth_data),
        "etag": version.etag,
        "count": version.count,
    }
