"""The writer of profile fields: one transaction for the field and what follows from it."""

from typing import Any, Final

import attrs
import orjson

from hs.core.errors import ProfileTooLarge
from hs.core.ids import UserID
from hs.core.streams import ProfileUpdateRow
from hs.repl.shared_writer import SharedStreamIds, SharedTableWriter
from hs.repl.writers import Rows
from hs.storage.accounts import profile_updates, profiles
from hs.storage.database import Tx

DISPLAYNAME: Final = "displayname"
AVATAR_URL: Final = "avatar_url"
MAX_PROFILE_BYTES: Final = 65_536

Written = tuple[None, Rows[ProfileUpdateRow]]


@attrs.frozen(eq=False)
class ProfileWriter:
    """The writer of this process; every process has one."""

    _stream: SharedTableWriter[ProfileUpdateRow]

    async def put_field(self, user_id: UserID, field: str, value: Any) -> None:
        """Set a field to a JSON value. Raises: ProfileTooLarge."""
        await self._stream.write(_put, user_id, field, value)

    async def delete_field(self, user_id: UserID, field: str) -> None:
        """Delete a field, if it is set."""
        await self._stream.write(_delete, user_id, field)


async def _put(tx: Tx, ids: SharedStreamIds, user_id: str, field: str, value: Any) -> Written:
    profile = await profiles.get_profile(tx, user_id) or {}
    # As JSON, where 1 and true differ.
    is_equal = field in profile and orjson.dumps(profile[field]) == orjson.dumps(value)
    profile[field] = value
    if len(orjson.dumps(profile)) > MAX_PROFILE_BYTES:
        raise ProfileTooLarge(f"The profile must not exceed {MAX_PROFILE_BYTES} bytes")
    rows: Rows[ProfileUpdateRow] = []
    # An equal value is not written: another process may have set a different one since the read,
    # which would then be replaced without an update.
    if not is_equal:
        stream_id = await ids.next_id()
        await profiles.set_field(tx, user_id, field, value)
        await profile_updates.record(tx, stream_id, user_id, field, is_set=True)
        rows.append((stream_id, ProfileUpdateRow(user_id, field)))
    await _record_change(tx, user_id, field)
    return None, rows


async def _delete(tx: Tx, ids: SharedStreamIds, user_id: str, field: str) -> Written:
    profile = await profiles.get_profile(tx, user_id) or {}
    rows: Rows[ProfileUpdateRow] = []
    if field in profile:
        stream_id = await ids.next_id()
        await profiles.delete_field(tx, user_id, field)
        await profile_updates.record(tx, stream_id, user_id, field, is_set=False)
        rows.append((stream_id, ProfileUpdateRow(user_id, field)))
    await _record_change(tx, user_id, field)
    return None, rows


async def _record_change(tx: Tx, user_id: str, field: str) -> None:
    # Read by RoomProfiles, which updates member events even if this process ends after the commit.
    if field in (DISPLAYNAME, AVATAR_URL):
        await profiles.record_change(tx, user_id)
