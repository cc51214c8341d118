"""Presence as clients set and see it: visible to users in shared rooms.

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
from hs.core.streams import PresenceRow
from hs.lib.clock import Clock
from hs.services.accounts.limits.account_restrictions import check_may_signal
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_tracking import SyncingDevices
from hs.services.ephemeral.presence_writer import OFFLINE, ONLINE, STATES, PresenceWriter
from hs.settings.sections.features import PresenceSettings

MAX_STATUS_CHARS: Final = 1000


class PresenceMemberships(Protocol):
    """Queries for room memberships; implemented by the rooms services."""

    async def joined_rooms(self, user_id: UserID) -> Sequence[RoomID]:
        """Return the rooms that a local user is joined to."""
        ...

    async def joined(self, room_id: RoomID) -> AbstractSet[UserID]:
        """Return the joined members of a room."""
        ...

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        """Return whether both users are joined to the same room."""
        ...


@attrs.frozen(eq=False)
class PresenceService:
    """The presence service for clients."""

    settings: PresenceSettings
    states: PresenceStates
    memberships: PresenceMemberships
    writer: PresenceWriter
    devices: SyncingDevices
    clock: Clock
    excluded_rooms: frozenset[RoomID] = frozenset()  # not considered for visibility

    @property
    def is_enabled(self) -> bool:
        """Whether presence is enabled."""
        return self.settings.enabled is True

    def syncing(
        self, user_id: UserID, device_id: str | None, state: str
    ) -> AbstractContextManager[None]:
        """Count a device as syncing while the context is open; `state` is `set_presence`."""
        return self.devices.syncing(user_id, device_id, state)

    async def wait_until_present(self, user_id: UserID, state: str) -> None:
        """Wait, not for long, until a user who syncs with a state is known to be present."""
        if state != OFFLINE:
            await self.devices.wait_until_present(user_id)

    async def set_presence(
        self, requester: Requester, user_id: UserID, state: Any, status_msg: Any
    ) -> None:
        """Set the requester's presence.

        Raises: Forbidden, InvalidParam; UserSuspended, for a status message.
        """
        if user_id != requester.user_id:
            raise Forbidden("You can set only your own presence")
        if state not in STATES:
            raise InvalidParam(f"presence must be one of {', '.join(STATES)}")
        if status_msg is not None and not isinstance(status_msg, str):
            raise InvalidParam("status_msg must be a string")
        if status_msg is not None and len(status_msg) > MAX_STATUS_CHARS:
            raise InvalidParam(f"status_msg must not exceed {MAX_STATUS_CHARS} characters")
        if status_msg:
            check_may_signal(requester)
        if not self.is_enabled or requester.is_shadow_banned:
            return
        await self.writer.set_presence(user_id, requester.device_id or "", state, status_msg)

    async def presence_of(self, requester: Requester, user_id: UserID) -> dict[str, Any]:
        """Return a user's presence, as `GET /presence/{user_id}/status` does.

        Raises: Forbidden.
        """
        is_own = user_id == requester.user_id
        if not is_own and not await self._share_room(requester.user_id, user_id):
            raise Forbidden("You are not allowed to see this user's presence")
        # The requester may have set it through another process just before.
        row = await self.writer.current(user_id) if self.is_enabled else None
        return {"presence": OFFLINE} if row is None else _content(row, self.clock.now_ms())

    async def changes(
        self, user_id: UserID, after: VectorPosition | None
    ) -> Mapping[UserID, bytes]:
        """Return m.presence events of visible users whose presence changed after a position.

        With None, return those of all visible users, for an initial sync.
        """
        if not self.is_enabled:
            return {}
        if after is not None:
            return self._events(await self._changed(user_id, after))
        rows, room_ids = await self._initial_rows(), await self._visible_rooms(user_id)
        return self._events(await self._visible_rows(user_id, room_ids, rows))

    async def has_changes(self, user_id: UserID, after: VectorPosition) -> bool:
        """Return whether the presence of a visible user changed after a position."""
        return self.is_enabled and bool(await self._changed(user_id, after))

    async def of(self, user_ids: Collection[UserID]) -> Mapping[UserID, bytes]:
        """Return m.presence events of users; unknown users are offline."""
        if not self.is_enabled or not user_ids:
            return {}
        states = await self.states.get(user_ids)
        return self._events(states.get(user_id) or _unknown(user_id) for user_id in user_ids)

    async def _share_room(self, user_id: UserID, other_id: UserID) -> bool:
        if not self.excluded_rooms:
            return await self.memberships.share_room(user_id, other_id)
        rooms = await self._visible_rooms(user_id)
        return other_id in await self._visible_in(user_id, rooms, {other_id})

    async def _initial_rows(self) -> list[PresenceRow]:
        await self.states.load()
        rows = list(self.states.here())
        if self.settings.include_offline_users_on_sync:
            rows.extend(self.states.offline())
        return rows

    async def _changed(self, user_id: UserID, after: VectorPosition) -> list[PresenceRow]:
        """List the changed presence of visible users.

        A poll looks at those who share a room with the user or at those who changed, whichever are
        fewer.
        """
        at_most = self.states.most_changed(after)
        if not at_most:
            return []
        room_ids = await self._visible_rooms(user_id)
        visible = {user_id}
        for room_id in room_ids:
            members = await self.memberships.joined(room_id)
            if len(visible) + len(members) > at_most:
                return await self._visible_rows(user_id, room_ids, self.states.changed(after))
            visible |= members
        return self.states.changed_of(visible, after)

    async def _visible_rows(
        self, user_id: UserID, room_ids: Sequence[RoomID], rows: Iterable[PresenceRow]
    ) -> list[PresenceRow]:
        by_id = {UserID(row.user_id): row for row in rows}
        visible = await self._visible_in(user_id, room_ids, by_id.keys())
        return [row for other_id, row in by_id.items() if other_id in visible]

    async def _visible_rooms(self, user_id: UserID) -> Sequence[RoomID]:
        """List the rooms that make the presence of their members visible to a user."""
        room_ids, excluded = await self.memberships.joined_rooms(user_id), self.excluded_rooms
        if not excluded:
            return room_ids
        return [room_id for room_id in room_ids if room_id not in excluded]

    async def _visible_in(
        self, user_id: UserID, room_ids: Sequence[RoomID], candidates: AbstractSet[UserID]
    ) -> set[UserID]:
        visible = set(candidates & {user_id})
        remaining = set(candidates - visible)
        for room_id in room_ids:
            if not remaining:
                break
            members = remaining & (await self.memberships.joined(room_id))
            visible |= members
            remaining -= members
        return visible

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
