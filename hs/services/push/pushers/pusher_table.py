"""Pushers, changed by one process and told to all on the stream `pushers`.

Spec: client-server API, POST pushers/set.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.repl.rows import PusherRow
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.storage.database import Tx
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey, PusherRecord

MAX_PUSHERS: Final = 100
"""Of one user."""

Written = tuple[None, list[tuple[int, PusherRow]]]


@attrs.frozen(kw_only=True)
class PusherWish:
    """A pusher as somebody wants it; `data` is a JSON object.

    `keeps_device`: if it is there, it stays with the device that it belongs to.
    `is_alone`: no other user keeps a pusher with this app and pushkey.
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
    """The owner of pushers, perhaps in another process."""

    @rpc
    async def put(self, wish: PusherWish) -> None:
        """Add a pusher, or change the one with its app and pushkey. Raises: Forbidden."""
        ...

    @rpc
    async def delete(self, user_id: UserID, app_id: str, pushkey: str) -> None:
        """Delete a pusher, if it is there."""
        ...

    @rpc
    async def delete_of_devices(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the pushers of devices that are gone."""
        ...


@attrs.frozen(eq=False)
class PusherTable:
    """The owner itself."""

    _writer: TableWriter[PusherRow]
    _clock: Clock

    async def put(self, wish: PusherWish) -> None:
        """Add a pusher, or change the one with its app and pushkey. Raises: Forbidden."""
        await self._writer.write(_put, wish, self._clock.now_ms())

    async def delete(self, user_id: UserID, app_id: str, pushkey: str) -> None:
        """Delete a pusher, if it is there."""
        await self._writer.write(_delete, [PusherKey(user_id, app_id, pushkey)])

    async def delete_of_devices(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the pushers of devices that are gone."""
        await self._writer.write(_delete_of_devices, user_id, device_ids)


async def _put(tx: Tx, ids: StreamIds, wish: PusherWish, now_ms: int) -> Written:
    key = PusherKey(wish.user_id, wish.app_id, wish.pushkey)
    before = await storage.find(tx, key)
    if before is None and len(await storage.of_user(tx, wish.user_id)) >= MAX_PUSHERS:
        raise Forbidden(f"A user has at most {MAX_PUSHERS} pushers")
    others: list[PusherKey] = []
    if wish.is_alone:
        users = await storage.others_with(tx, key)
        others = [PusherKey(user_id, wish.app_id, wish.pushkey) for user_id in users]
    _, rows = await _delete(tx, ids, others)
    await storage.put(tx, await _record(tx, wish, before, now_ms))
    row = PusherRow(wish.user_id, wish.app_id, wish.pushkey, enabled=wish.enabled)
    return None, [*rows, (await ids.one(), row)]


async def _record(
    tx: Tx, wish: PusherWish, before: PusherRecord | None, now_ms: int
) -> PusherRecord:
    if before is None or (wish.enabled and not before.enabled):
        # What came before is none of its business.
        position = await storage.last_of_user(tx, wish.user_id)
    else:
        position = before.position
    device_id = wish.device_id
    if before is not None and wish.keeps_device:
        device_id = before.device_id
    return PusherRecord(
        wish.user_id,
        wish.app_id,
        wish.pushkey,
        wish.kind,
        wish.app_display_name,
        wish.device_display_name,
        wish.profile_tag,
        wish.lang,
        wish.data,
        int(wish.enabled),
        device_id,
        now_ms,
        max(position, 0 if before is None else before.position),
    )


async def _delete(tx: Tx, ids: StreamIds, keys: Sequence[PusherKey]) -> Written:
    gone = [key for key in keys if await storage.delete(tx, key)]
    numbers = await ids.many(len(gone)) if gone else []
    rows = [PusherRow(*key, removed=True) for key in gone]
    return None, list(zip(numbers, rows, strict=True))


async def _delete_of_devices(
    tx: Tx, ids: StreamIds, user_id: str, device_ids: Sequence[str]
) -> Written:
    return await _delete(tx, ids, await storage.of_devices(tx, user_id, device_ids))
