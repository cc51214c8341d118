"""Presence worked out from what devices do, by one process; only its edges are told.

A device is here while a process says that it syncs, and for a while after it set its presence.
Spec: client-server API, Presence.
"""

import heapq
from collections.abc import Iterable
from typing import Final, Protocol

import attrs
import trio

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import PresenceRow
from hs.repl.rpc import rpc
from hs.settings.sections.features import PresenceSettings
from hs.storage.database import Database
from hs.storage.ephemeral import presence as storage
from hs.storage.ephemeral.presence import PresenceRecord

ONLINE: Final = "online"
UNAVAILABLE: Final = "unavailable"
OFFLINE: Final = "offline"
STATES: Final = (ONLINE, UNAVAILABLE, OFFLINE)

INSTANCE_LIVES_MS: Final = 60_000
"""A process that was not heard of for so long has no syncing devices any more."""

SAVE_PAUSE_S: Final = 2.0
_EARLIER: Final = ""
"""Stands for whatever device a user had before a restart, and for clients without one."""

_RANK: Final = {OFFLINE: 0, UNAVAILABLE: 1, ONLINE: 2}


@attrs.frozen
class Edge:
    """A device began to sync with a presence, changed it, or (None) stopped."""

    user_id: UserID
    device_id: str
    state: str | None


class PresenceWriter(Protocol):
    """The process that works presence out."""

    @rpc
    async def set_presence(
        self, user_id: UserID, device_id: str, state: str, status_msg: str | None
    ) -> None:
        """Take what a user says of themselves."""
        ...

    @rpc(catch_up=False)
    async def note_edges(self, instance: str, epoch: int, edges: list[Edge]) -> None:
        """Take which devices began or stopped syncing at a process."""
        ...

    @rpc(catch_up=False)
    async def note_active(self, user_ids: list[UserID]) -> None:
        """Take who did something just now."""
        ...

    @rpc(catch_up=False)
    async def keep(self, instance: str, epoch: int) -> bool:
        """Hear that a process still lives; False: say again which of its devices sync."""
        ...


@attrs.define(eq=False)
class _Device:
    state: str
    instances: set[str] = attrs.Factory(set)
    until_ms: int = 0


@attrs.define(eq=False)
class _User:
    told: PresenceRow | None = None
    status_msg: str | None = None
    last_active_ms: int = 0
    devices: dict[str, _Device] = attrs.Factory(dict)
    due_ms: int | None = None


@attrs.define(eq=False)
class _Instance:
    epoch: int
    heard_ms: int


@attrs.define(eq=False)
class PresenceMemory:
    """The writer."""

    _writer: MemoryWriter[PresenceRow]
    _database: Database
    _settings: PresenceSettings
    _clock: Clock
    _users: dict[UserID, _User] = attrs.Factory(dict)
    _instances: dict[str, _Instance] = attrs.Factory(dict)
    _due: list[tuple[int, UserID]] = attrs.Factory(list)
    _unsaved: dict[UserID, PresenceRow] = attrs.Factory(dict)
    _sooner: trio.Event = attrs.Factory(trio.Event)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let time pass for users, for ever: they become idle, and go offline."""
        await self.load()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_for_ever)
            while True:
                self._sooner = trio.Event()
                wait_ms = self.expire()
                with trio.move_on_after((INSTANCE_LIVES_MS if wait_ms is None else wait_ms) / 1000):
                    await self._sooner.wait()

    async def load(self) -> None:
        """Go on with those who were here before a restart; they get the time to sync again."""
        grace_ms = self._clock.now_ms() + self._settings.sync_online_timeout
        for record in await self._database.read(storage.not_offline):
            user = self._users.setdefault(UserID(record.user_id), _of_record(record))
            user.devices.setdefault(_EARLIER, _Device(record.state, until_ms=grace_ms))
            self._schedule(UserID(record.user_id), user)

    async def set_presence(
        self, user_id: UserID, device_id: str, state: str, status_msg: str | None
    ) -> None:
        """Take what a user says of themselves."""
        user = await self._user(user_id)
        now_ms = self._clock.now_ms()
        user.status_msg = None if state == OFFLINE else status_msg
        user.last_active_ms = now_ms
        if state == OFFLINE:
            user.devices.pop(device_id, None)
            user.devices.pop(_EARLIER, None)
        else:
            device = user.devices.setdefault(device_id, _Device(state))
            device.state = state
            device.until_ms = now_ms + self._settings.sync_online_timeout
        self._look(user_id, user)

    async def note_edges(self, instance: str, epoch: int, edges: list[Edge]) -> None:
        """Take which devices began or stopped syncing at a process."""
        self._hear(instance, epoch)
        for edge in edges:
            user = await self._user(edge.user_id)
            if edge.state is None:
                device = user.devices.get(edge.device_id)
                if device is not None:
                    device.instances.discard(instance)
            else:
                self._begin(user, instance, edge.device_id, edge.state)
            self._look(edge.user_id, user)

    async def note_active(self, user_ids: list[UserID]) -> None:
        """Take who did something just now."""
        for user_id in user_ids:
            user = await self._user(user_id)
            user.last_active_ms = self._clock.now_ms()
            for device in user.devices.values():
                if device.state == UNAVAILABLE:
                    device.state = ONLINE
            self._look(user_id, user)

    async def keep(self, instance: str, epoch: int) -> bool:
        """Hear that a process still lives; False: say again which of its devices sync."""
        known = self._instances.get(instance)
        is_known = known is not None and known.epoch == epoch
        self._hear(instance, epoch)
        return is_known

    def set_remote(self, rows: Iterable[PresenceRow]) -> None:
        """Take what other servers tell of their users."""
        for row in rows:
            user = self._users.setdefault(UserID(row.user_id), _User())
            self._tell(UserID(row.user_id), user, row)

    def expire(self) -> int | None:
        """Look at those whose time has come; give the ms until the next one's does."""
        now_ms = self._clock.now_ms()
        for name, instance in list(self._instances.items()):
            if now_ms - instance.heard_ms > INSTANCE_LIVES_MS:
                self._drop(name)
        while self._due and self._due[0][0] <= now_ms:
            due_ms, user_id = heapq.heappop(self._due)
            user = self._users.get(user_id)
            if user is not None and user.due_ms == due_ms:
                user.due_ms = None
                self._look(user_id, user)
        return self._due[0][0] - now_ms if self._due else None

    async def save(self) -> None:
        """Write what was told since the last time."""
        unsaved, self._unsaved = self._unsaved, {}
        if not unsaved:
            return
        records = [
            PresenceRecord(
                row.user_id, row.state, row.last_active_ts, row.status_msg, row.currently_active
            )
            for row in unsaved.values()
        ]
        try:
            await self._database.write(storage.save, records)
        except BaseException:
            self._unsaved = {**unsaved, **self._unsaved}
            raise

    async def _save_for_ever(self) -> None:
        try:
            while True:
                await trio.sleep(SAVE_PAUSE_S)
                await self.save()
        finally:
            with trio.move_on_after(5, shield=True):
                await self.save()

    async def _user(self, user_id: UserID) -> _User:
        user = self._users.get(user_id)
        if user is not None:
            return user
        records = await self._database.read(storage.of_users, [user_id])
        return self._users.setdefault(user_id, _of_record(records[0]) if records else _User())

    def _begin(self, user: _User, instance: str, device_id: str, state: str) -> None:
        was_online = any(device.state == ONLINE for device in user.devices.values())
        device = user.devices.setdefault(device_id, _Device(state))
        device.state = state
        device.instances.add(instance)
        # That of before a restart; the device itself has spoken now.
        if device_id != _EARLIER:
            user.devices.pop(_EARLIER, None)
        if state == ONLINE and not was_online:
            user.last_active_ms = self._clock.now_ms()

    def _hear(self, instance: str, epoch: int) -> None:
        known = self._instances.get(instance)
        if known is not None and known.epoch != epoch:
            self._drop(instance)
        self._instances[instance] = _Instance(epoch, self._clock.now_ms())

    def _drop(self, instance: str) -> None:
        self._instances.pop(instance, None)
        for user_id, user in list(self._users.items()):
            held = [one for one in user.devices.values() if instance in one.instances]
            for device in held:
                device.instances.discard(instance)
            if held:
                self._look(user_id, user)

    def _look(self, user_id: UserID, user: _User) -> None:
        """Work out a user's presence now, and tell it if it changed."""
        now_ms = self._clock.now_ms()
        for device_id, device in list(user.devices.items()):
            if not device.instances and device.until_ms <= now_ms:
                del user.devices[device_id]
        state = self._state(user, now_ms)
        active_ms = now_ms - user.last_active_ms
        row = PresenceRow(
            user_id=user_id,
            state=state,
            last_active_ts=user.last_active_ms,
            status_msg=user.status_msg,
            currently_active=state == ONLINE and active_ms < self._settings.last_active_granularity,
        )
        if user.told is None or _edge(row) != _edge(user.told):
            self._tell(user_id, user, row)
        if user.devices:
            self._schedule(user_id, user)
        else:
            # What is worth remembering of somebody offline is in the database.
            self._forget(user_id)

    def _forget(self, user_id: UserID) -> None:
        if user_id not in self._unsaved:
            self._users.pop(user_id, None)

    def _tell(self, user_id: UserID, user: _User, row: PresenceRow) -> None:
        user.told = self._unsaved[user_id] = row
        self._writer.append_nowait([row])

    def _state(self, user: _User, now_ms: int) -> str:
        states = [device.state for device in user.devices.values()]
        best = max(states, key=_RANK.__getitem__, default=OFFLINE)
        idle = now_ms - user.last_active_ms >= self._settings.idle_timeout
        return UNAVAILABLE if best == ONLINE and idle else best

    def _schedule(self, user_id: UserID, user: _User) -> None:
        now_ms = self._clock.now_ms()
        moments = [one.until_ms for one in user.devices.values() if not one.instances]
        if user.told is not None and user.told.state == ONLINE:
            moments.append(user.last_active_ms + self._settings.idle_timeout)
            moments.append(user.last_active_ms + self._settings.last_active_granularity)
        due_ms = min((moment for moment in moments if moment > now_ms), default=None)
        if due_ms is None or (user.due_ms is not None and user.due_ms <= due_ms):
            return
        user.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, user_id))
        if self._due[0][0] == due_ms:
            self._sooner.set()


def _edge(row: PresenceRow) -> tuple[str, str | None, bool]:
    return row.state, row.status_msg, row.currently_active


def _of_record(record: PresenceRecord) -> _User:
    told = PresenceRow(
        record.user_id,
        record.state,
        record.last_active_ms,
        record.status_msg,
        record.currently_active,
    )
    return _User(told, record.status_msg, record.last_active_ms)
