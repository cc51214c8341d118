"""Server-side key backups: versions, and the session keys in each version.

What a user stores is limited. Many keys are stored and deleted in several transactions, between
which others can write; the cleanup of devices deletes the remaining keys of deleted versions.

Spec: client-server API, End-to-End Encryption, Server-side key backups.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import MAX_INTEGER, JsonObject, shrink_to_fit
from hs.core.errors import (
    BadJson,
    InvalidParam,
    NotFound,
    TooLarge,
    WrongRoomKeysVersion,
)
from hs.core.ids import MAX_ID_BYTES, UserID
from hs.lib.time_slice import TimeSlice
from hs.storage.database import Database, Tx
from hs.storage.devices import key_backup
from hs.storage.devices.key_backup import BackupRecord, SessionRecord

MAX_STORED_AT_ONCE: Final = 500
MAX_VERSIONS: Final = 100  # of one user
MAX_DELETED_VERSIONS: Final = 100  # whose numbers are remembered, so that deletion is idempotent
MAX_BYTES: Final = 512 * 1024 * 1024  # of one user; a key has about 700 bytes with its row
MAX_KEY_BYTES: Final = 65_536
MAX_AUTH_DATA_BYTES: Final = 65_536
_ROW_BYTES: Final = 250  # of a stored key besides `session_data`

# Opaque to the server: an object for the specified algorithm; some clients store a string.
OpaqueData = JsonObject | str


@attrs.frozen
class SessionKey:
    """A backed-up session key."""

    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: OpaqueData

    def check(self) -> None:
        """Reject integers that canonical JSON cannot represent. Raises: BadJson."""
        for number in (self.first_message_index, self.forwarded_count):
            if not -MAX_INTEGER <= number <= MAX_INTEGER:
                raise BadJson("first_message_index or forwarded_count is out of range")


@attrs.frozen
class BackupVersion:
    """A backup version with the number of its keys; `auth_data` is JSON."""

    version: str
    algorithm: str
    auth_data: bytes
    etag: str
    count: int


@attrs.frozen
class BackupState:
    """The state of a version after a change."""

    etag: str
    count: int


@attrs.frozen
class BackupScope:
    """The keys of a version that a request refers to: all, of one room, or of one session."""

    room_id: str | None = None
    session_id: str | None = None


@attrs.frozen(eq=False)
class KeyBackups:
    """The key backups of all users."""

    _database: Database

    async def create(self, user_id: UserID, algorithm: str, auth_data: OpaqueData) -> str:
        """Create a version, which becomes the current one; return its ID.

        Raises: InvalidParam; TooLarge, also if the user has too many versions.
        """
        if len(algorithm.encode()) > MAX_ID_BYTES:
            raise InvalidParam(f"'algorithm' must not exceed {MAX_ID_BYTES} bytes")
        data = _encoded_auth_data(auth_data)
        return str(await self._database.write(_create, user_id, algorithm, data))

    async def version(self, user_id: UserID, version: str | None) -> BackupVersion:
        """Return a version, or with None the current one. Raises: NotFound."""
        number = None if version is None else _parse_version(version)
        record = await self._database.read(_find, user_id, number)
        return BackupVersion(
            version=str(record.version),
            algorithm=record.algorithm,
            auth_data=record.auth_data,
            etag=str(record.etag),
            count=record.key_count,
        )

    async def update(
        self,
        user_id: UserID,
        version: str,
        algorithm: str,
        auth_data: OpaqueData,
        version_in_body: str | None,
    ) -> None:
        """Set a version's `auth_data`.

        Raises: NotFound; TooLarge; InvalidParam if another field differs.
        """
        if version_in_body is not None and version_in_body != version:
            raise InvalidParam("'version' in the body must equal the version in the path")
        data = _encoded_auth_data(auth_data)
        await self._database.write(_update, user_id, _parse_version(version), algorithm, data)

    async def delete(self, user_id: UserID, version: str) -> None:
        """Delete a version with its keys. Idempotent. Raises: NotFound."""
        number = _parse_version(version)
        await self._database.write(_delete, user_id, number)
        while await self._database.write(key_backup.delete_leftovers, user_id):
            pass

    async def put(
        self, user_id: UserID, version: str, rooms: Mapping[str, Mapping[str, SessionKey]]
    ) -> BackupState:
        """Store keys, each unless the stored one is better.

        Raises: BadJson; InvalidParam; NotFound; TooLarge; WrongRoomKeysVersion if the version is
            not the current one.
        """
        keys = await _records(rooms)
        number = _parse_version(version)
        last = max(0, len(keys) - 1) // MAX_STORED_AT_ONCE * MAX_STORED_AT_ONCE
        for start in range(0, last, MAX_STORED_AT_ONCE):
            part = keys[start : start + MAX_STORED_AT_ONCE]
            await self._database.write(_put_part, user_id, number, part)
        return await self._database.write(_put, user_id, number, keys[last:])

    async def get(
        self, user_id: UserID, version: str, scope: BackupScope
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Return keys by room and session.

        Raises: NotFound, also if the scope is one session without a key.
        """
        records = await self._database.read(_get, user_id, _parse_version(version), scope)
        if scope.session_id is not None and not records:
            raise NotFound("The backup contains no key of this session")
        rooms: dict[str, dict[str, dict[str, Any]]] = {}
        time_slice = TimeSlice()
        for record in records:
            await time_slice.yield_if_over()
            rooms.setdefault(record.room_id, {})[record.session_id] = _rendered(record)
        return rooms

    async def delete_keys(self, user_id: UserID, version: str, scope: BackupScope) -> BackupState:
        """Delete keys; unknown sessions are ignored. Raises: NotFound."""
        number = _parse_version(version)
        while (state := await self._database.write(_delete_keys, user_id, number, scope)) is None:
            pass
        return state


async def _records(rooms: Mapping[str, Mapping[str, SessionKey]]) -> list[SessionRecord]:
    """Return the keys as they are stored. Raises: BadJson, InvalidParam, TooLarge."""
    records: list[SessionRecord] = []
    time_slice = TimeSlice()
    for room_id, sessions in rooms.items():
        for session_id, key in sessions.items():
            await time_slice.yield_if_over()
            records.append(_record(room_id, session_id, key))
    return records


def _record(room_id: str, session_id: str, key: SessionKey) -> SessionRecord:
    key.check()
    if max(len(room_id.encode()), len(session_id.encode())) > MAX_ID_BYTES:
        raise InvalidParam(f"Room and session IDs must not exceed {MAX_ID_BYTES} bytes")
    session_data = shrink_to_fit(orjson.dumps(key.session_data))
    if len(session_data) > MAX_KEY_BYTES:
        raise TooLarge(f"'session_data' must not be larger than {MAX_KEY_BYTES} bytes")
    return SessionRecord(
        room_id=room_id,
        session_id=session_id,
        first_message_index=key.first_message_index,
        forwarded_count=key.forwarded_count,
        is_verified=int(key.is_verified),
        session_data=session_data,
    )


def _encoded_auth_data(auth_data: OpaqueData) -> bytes:
    encoded = orjson.dumps(auth_data)
    if len(encoded) > MAX_AUTH_DATA_BYTES:
        raise TooLarge(f"'auth_data' must not be larger than {MAX_AUTH_DATA_BYTES} bytes")
    return encoded


def _parse_version(version: str) -> int:
    if not version.isascii() or not version.isdecimal() or len(version) > 18:
        raise NotFound("Backup version not found")
    return int(version)


def _rendered(record: SessionRecord) -> dict[str, Any]:
    return {
        "first_message_index": record.first_message_index,
        "forwarded_count": record.forwarded_count,
        "is_verified": bool(record.is_verified),
        "session_data": orjson.Fragment(record.session_data),
    }


async def _find(tx: Tx, user_id: str, version: int | None) -> BackupRecord:
    if version is None:
        record = await key_backup.latest(tx, user_id)
    else:
        record = await key_backup.find(tx, user_id, version)
    if record is None or record.is_deleted:
        raise NotFound("Backup version not found")
    return record


async def _create(tx: Tx, user_id: str, algorithm: str, auth_data: bytes) -> int:
    versions, _, _ = await key_backup.totals(tx, user_id)
    if versions >= MAX_VERSIONS:
        raise TooLarge(f"A user must not have more than {MAX_VERSIONS} backup versions")
    await key_backup.forget_deleted(tx, user_id, MAX_DELETED_VERSIONS)
    return await key_backup.create(tx, user_id, algorithm, auth_data)


async def _update(tx: Tx, user_id: str, version: int, algorithm: str, auth_data: bytes) -> None:
    record = await _find(tx, user_id, version)
    if record.algorithm != algorithm:
        raise InvalidParam("'algorithm' of a backup version cannot be changed")
    await key_backup.set_auth_data(tx, user_id, version, auth_data)


async def _delete(tx: Tx, user_id: str, version: int) -> None:
    record = await key_backup.lock(tx, user_id, version)
    if record is None:
        raise NotFound("Backup version not found")
    if not record.is_deleted:
        await key_backup.delete(tx, user_id, version)


async def _lock(tx: Tx, user_id: str, version: int) -> BackupRecord:
    record = await key_backup.lock(tx, user_id, version)
    if record is None or record.is_deleted:
        raise NotFound("Backup version not found")
    return record


async def _put(tx: Tx, user_id: str, version: int, keys: Sequence[SessionRecord]) -> BackupState:
    backup = await _put_part(tx, user_id, version, keys)
    return BackupState(str(backup.etag), backup.key_count)


async def _put_part(
    tx: Tx, user_id: str, version: int, keys: Sequence[SessionRecord]
) -> BackupRecord:
    """Store keys; return the version as it is afterwards."""
    backup = await _lock(tx, user_id, version)
    latest = await key_backup.latest(tx, user_id)
    if latest is not None and latest.version != version:
        raise WrongRoomKeysVersion(
            "Keys can be added to the current backup version only",
            current_version=str(latest.version),
        )
    session_ids = [(key.room_id, key.session_id) for key in keys]
    stored = (
        await key_backup.existing_sessions(tx, user_id, version, session_ids) if session_ids else {}
    )
    better_keys = [key for key in keys if is_better(key, stored.get((key.room_id, key.session_id)))]
    if not better_keys:
        return backup
    replaced = [
        stored[name] for key in better_keys if (name := (key.room_id, key.session_id)) in stored
    ]
    added_count = len(better_keys) - len(replaced)
    added_bytes = _size(better_keys) - _size(replaced)
    _, key_count, key_bytes = await key_backup.totals(tx, user_id)
    if (
        added_bytes + added_count > 0
        and (key_count + added_count) * _ROW_BYTES + key_bytes + added_bytes > MAX_BYTES
    ):
        raise TooLarge(f"The key backups of a user must not be larger than {MAX_BYTES} bytes")
    await key_backup.put_sessions(tx, user_id, version, better_keys)
    return await key_backup.change_keys(tx, user_id, backup, added_count, added_bytes)


def _size(keys: Sequence[SessionRecord]) -> int:
    return sum(len(key.session_data) for key in keys)


def is_better(key: SessionRecord, stored: SessionRecord | None) -> bool:
    """Return whether a key replaces the stored one."""
    return stored is None or _rank(key) < _rank(stored)


def _rank(key: SessionRecord) -> tuple[bool, int, int]:
    return (not key.is_verified, key.first_message_index, key.forwarded_count)


async def _get(tx: Tx, user_id: str, version: int, scope: BackupScope) -> list[SessionRecord]:
    await _find(tx, user_id, version)
    return await key_backup.list_sessions(tx, user_id, version, scope.room_id, scope.session_id)


async def _delete_keys(
    tx: Tx, user_id: str, version: int, scope: BackupScope
) -> BackupState | None:
    """Delete some keys; return None if this is to be repeated."""
    backup, are_all = await key_backup.delete_keys(
        tx, user_id, await _lock(tx, user_id, version), scope.room_id, scope.session_id
    )
    return BackupState(str(backup.etag), backup.key_count) if are_all else None
