"""Changes of pushers, in the process that writes the stream `pushers`.

Spec: client-server API, POST pushers/set.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.core.streams import PusherRow
from hs.lib.clock import Clock
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.storage.database import Tx
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey, PusherRecord

MAX_PUSHERS: Final = 100
"""The limit for one user."""

_Written = tuple[None, list[tuple[int, PusherRow]]]


@attrs.frozen(kw_only=True)
class PusherRequest:
    """A pusher as it is to be set; `data` is a JSON object.

    With `keeps_device`, an existing pusher stays with its device. With `is_alone`, pushers of other
    users with the same app and pushkey are deleted.
    """

    user_id: UserID
    app_id: str
    pushkey: str
    kind: str
    app_display_name: str
    device_display_name: str
    profile_tag: str
    lang: str
    data: str
    enabled: bool
    device_id: str
    keeps_device: bool
    is_alone: bool


class PusherWriter(Protocol):
    """The process that changes pushers."""

    @rpc
    async def put(self, wish: PusherRequest) -> None:
        """Add a pusher, or replace the one with its app and pushkey.

        Raises: Forbidden if the user has too many pushers.
        """
        ...

    @rpc
    async def delete(self, user_id: UserID, app_id: str, pushkey: str) -> None:
        """Delete a pusher, if it exists."""
        ...

    @rpc
    async def delete_of_devices(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the pushers of a user's deleted devices."""
        ...


@attrs.frozen(eq=False)
class PusherTable:
    """The implementation of `PusherWriter` in the process that writes the stream."""

    _writer: TableWriter[PusherRow]
    _clock: Clock

    async def put(self, wish: PusherRequest) -> None:
        await self._writer.write(_put, wish, self._clock.now_ms())

    async def delete(self, user_id: UserID, app_id: str, pushkey: str) -> None:
        await self._writer.write(_delete, [PusherKey(user_id, app_id, pushkey)])

    async def delete_of_devices(self, user_id: UserID, device_ids: list[str]) -> None:
        await self._writer.write(_delete_of_devices, user_id, device_ids)


async def _put(tx: Tx, ids: StreamIds, wish: PusherRequest, now_ms: int) -> _Written:
    key = PusherKey(wish.user_id, wish.app_id, wish.pushkey)
    before = await storage.find(tx, key)
    if before is None and len(await storage.list_of_user(tx, wish.user_id)) >= MAX_PUSHERS:
        raise Forbidden(f"A user may have at most {MAX_PUSHERS} pushers")
    others: list[PusherKey] = []
    if wish.is_alone:
        users = await storage.other_users_with(tx, key)
        others = [PusherKey(user_id, wish.app_id, wish.pushkey) for user_id in users]
    _, rows = await _delete(tx, ids, others)
    await storage.put(tx, await _record(tx, wish, before, now_ms))
    row = PusherRow(wish.user_id, wish.app_id, wish.pushkey, enabled=wish.enabled)
    return None, [*rows, (await ids.next_id(), row)]


async def _record(
    tx: Tx, wish: PusherRequest, before: PusherRecord | None, now_ms: int
) -> PusherRecord:
    if before is None or (wish.enabled and not before.enabled):
        # Earlier notifications are not sent to a new or re-enabled pusher.
        position = await storage.last_number_of_user(tx, wish.user_id)
    else:
        position = before.position
    device_id = wish.device_id
    if before is not None and wish.keeps_device:
        device_id = before.device_id
    return PusherRecord(
        user_id=wish.user_id,
        app_id=wish.app_id,
        pushkey=wish.pushkey,
        kind=wish.kind,
        app_display_name=wish.app_display_name,
        device_display_name=wish.device_display_name,
        profile_tag=wish.profile_tag,
        lang=wish.lang,
        data=wish.data,
        enabled=int(wish.enabled),
        device_id=device_id,
        set_ms=now_ms,
        position=max(position, 0 if before is None else before.position),
    )


async def _delete(tx: Tx, ids: StreamIds, keys: Sequence[PusherKey]) -> _Written:
    deleted = [key for key in keys if await storage.delete(tx, key)]
    stream_ids = await ids.next_ids(len(deleted)) if deleted else []
    rows = [PusherRow(*key, removed=True) for key in deleted]
    return None, list(zip(stream_ids, rows, strict=True))


async def _delete_of_devices(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: Sequence[str]
) -> _Written:
    return await _delete(tx, ids, await storage.list_of_devices(tx, user_id, device_ids))
