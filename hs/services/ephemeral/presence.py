"""Presence as users see it: the last known states in each process, shown to whom they concern.

Spec: client-server API, Presence.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.repl.rows import PresenceRow
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_tracking import SyncingDevices
from hs.services.ephemeral.presence_writer import OFFLINE, ONLINE, STATES, PresenceWriter
from hs.settings.sections.features import PresenceSettings

MAX_STATUS_CHARS: Final = 1000


class Neighbours(Protocol):
    """Tells who shares rooms with whom; the rooms layer answers."""

    async def joined_rooms(self, user_id: UserID) -> Sequence[RoomID]:
        """List the rooms that one of our users is joined to."""
        ...

    async def joined(self, room_id: RoomID) -> AbstractSet[UserID]:
        """Give the joined members of a room."""
        ...

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        """Tell whether two users are joined to one room."""
        ...


@attrs.frozen(eq=False)
class PresenceService:
    """What clients may say and see of presence."""

    settings: PresenceSettings
    states: PresenceStates
    neighbours: Neighbours
    writer: PresenceWriter
    devices: SyncingDevices
    clock: Clock
    apart: frozenset[RoomID] = frozenset()  # rooms that show nobody's presence

    @property
    def is_enabled(self) -> bool:
        """Tell whether presence is shown at all."""
        return self.settings.enabled is True

    def syncing(
        self, user_id: UserID, device_id: str | None, state: str
    ) -> AbstractContextManager[None]:
        """Note that a device syncs while the context is open; `state` is `set_presence`."""
        return self.devices.syncing(user_id, device_id, state)

    async def set_presence(
        self, requester: Requester, user_id: UserID, state: Any, status_msg: Any
    ) -> None:
        """Take what a user says of themselves.

        Raises: Forbidden, InvalidParam.
        """
        if user_id != requester.user_id:
            raise Forbidden("Can only set your own presence state")
        if state not in STATES:
            raise InvalidParam(f"presence must be one of {', '.join(STATES)}")
        if status_msg is not None and not isinstance(status_msg, str):
            raise InvalidParam("status_msg must be a string")
        if status_msg is not None and len(status_msg) > MAX_STATUS_CHARS:
            raise InvalidParam("status_msg is too long")
        if not self.is_enabled or requester.shadow:
            return
        await self.writer.set_presence(user_id, requester.device_id or "", state, status_msg)

    async def presence_of(self, requester: Requester, user_id: UserID) -> dict[str, Any]:
        """Give a user's presence, as `GET /presence/{user_id}/status` shows it.

        Raises: Forbidden.
        """
        own = user_id == requester.user_id
        if not own and not await self._share_room(requester.user_id, user_id):
            raise Forbidden("You are not allowed to see their presence.")
        found = await self.states.get([user_id]) if self.is_enabled else {}
        row = found.get(user_id)
        return {"presence": OFFLINE} if row is None else _content(row, self.clock.now_ms())

    async def changes(
        self, user_id: UserID, after: VectorPosition | None
    ) -> Mapping[UserID, bytes]:
        """Give m.presence events of those a user sees whose presence changed after a position.

        With None: of all of them, for a first sync.
        """
        if not self.is_enabled:
            return {}
        rows = await self._first() if after is None else self.states.changed(after)
        by_id = {UserID(row.user_id): row for row in rows}
        if not by_id:
            return {}
        seen = await self._seen_by(user_id, by_id.keys())
        return self._events(by_id[one] for one in by_id if one in seen)

    async def of(self, user_ids: Collection[UserID]) -> Mapping[UserID, bytes]:
        """Give m.presence events of users; those nothing is known of are offline."""
        if not self.is_enabled or not user_ids:
            return {}
        found = await self.states.get(user_ids)
        return self._events(found.get(one) or _unknown(one) for one in user_ids)

    async def _share_room(self, user_id: UserID, other_id: UserID) -> bool:
        if not self.apart:
            return await self.neighbours.share_room(user_id, other_id)
        return other_id in await self._seen_by(user_id, {other_id})

    async def _first(self) -> list[PresenceRow]:
        await self.states.load()
        rows = list(self.states.here())
        if self.settings.include_offline_users_on_sync:
            rows.extend(self.states.offline())
        return rows

    async def _seen_by(self, user_id: UserID, candidates: AbstractSet[UserID]) -> set[UserID]:
        seen = set(candidates & {user_id})
        left = set(candidates - seen)
        if not left:
            return seen
        for room_id in await self.neighbours.joined_rooms(user_id):
            if room_id in self.apart:
                continue
            here = left & (await self.neighbours.joined(room_id))
            seen |= here
            left -= here
            if not left:
                break
        return seen

    def _events(self, rows: Iterable[PresenceRow]) -> dict[UserID, bytes]:
        now_ms = self.clock.now_ms()
        return {
            UserID(row.user_id): orjson.dumps(
                {"type": "m.presence", "sender": row.user_id, "content": _content(row, now_ms)}
            )
            for row in rows
        }


def _unknown(user_id: UserID) -> PresenceRow:
    return PresenceRow(user_id=user_id, state=OFFLINE, last_active_ts=0)


def _content(row: PresenceRow, now_ms: int) -> dict[str, Any]:
    content: dict[str, Any] = {"presence": row.state}
    if row.last_active_ts:
        content["last_active_ago"] = max(0, now_ms - row.last_active_ts)
    if row.status_msg is not None:
        content["status_msg"] = row.status_msg
    if row.state == ONLINE:
        content["currently_active"] = row.currently_active
    return content
