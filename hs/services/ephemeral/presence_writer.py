"""The presence writer: computes users' presence from their devices, in the process that owns them.

Rules:

- Of several writers, each has its share of the users, and loads and stores only those. Users may
  pass to another writer (hs/repl/slots). That is to the new one like a restart: it loads them, with
  placeholder devices, and asks all processes to report their devices again. Users of other servers
  stay for REMOTE_TIMEOUT_MS. The old one stores what it has published, and forgets them. Its last
  messages may be lost, so the new one publishes what differs from what its process was told.
- What is due while it is not certain that this process owns a user is done later.
- A device counts while any process reports that it syncs, and for `sync_online_timeout` after it
  has set its presence. A user has the best presence of their devices, but is unavailable instead
  of online after `idle_timeout` without activity.
- A row is published only if the state, the status message or `currently_active` has changed. If
  that a user is no longer currently active is all, the row ends no long poll: it is part of their
  next responses. Otherwise every idle client would wake all others one minute after it came online.
- Processes report when a device begins or stops to sync, and send keepalives. A process that has
  been silent for INSTANCE_TIMEOUT_MS, or reports a new epoch, has restarted or died: its devices
  no longer count. A process that the writer does not know (`keep` returns False) reports all its
  devices again.
- After a restart of the writer, stored users who were not offline keep their presence for
  `sync_online_timeout`, in a placeholder device, until the processes have reported again. The first
  report of a real device removes the placeholder.
- The presence of a user of another server is what that server has sent last, for REMOTE_TIMEOUT_MS;
  then the user is offline.
- Timers are a heap of (time, user). A user has one valid entry, at `due_ms`; others are ignored.
- Times are those of the steady clock, so nobody goes or stays when the date is set. Only the last
  activity is also kept as a date, which is stored and shown.
- Changes are stored every SAVE_EVERY_S (UnsavedPresence).

Spec: client-server API, Presence.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs
import trio

from hs.core.ids import UserID
from hs.core.streams import PresenceRow
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rpc import rpc
from hs.repl.sharding import KeyGuard, unguarded
from hs.repl.slots.table import Matches
from hs.services.ephemeral.unsaved_presence import UnsavedPresence
from hs.settings.sections.features import PresenceSettings
from hs.storage.database import Database
from hs.storage.ephemeral import presence as storage
from hs.storage.ephemeral.presence import PresenceRecord

ONLINE: Final = "online"
UNAVAILABLE: Final = "unavailable"
OFFLINE: Final = "offline"
STATES: Final = (ONLINE, UNAVAILABLE, OFFLINE)

INSTANCE_TIMEOUT_MS: Final = 60_000
"""The devices of a process that has been silent for this time no longer count."""

REMOTE_TIMEOUT_MS: Final = 30 * 60_000
"""Other servers repeat the presence of their users more often."""

SAVE_EVERY_S: Final = 2.0
UNCERTAIN_MS: Final = 500
"""How long to wait before looking again whether this process owns a user."""

_PLACEHOLDER: Final = ""
"""The device ID of clients without a device, and of users loaded after a restart."""

_RANK: Final = {OFFLINE: 0, UNAVAILABLE: 1, ONLINE: 2}


@attrs.frozen
class DeviceEdge:
    """A device began to sync with a presence state, changed it, or (None) stopped syncing."""

    user_id: UserID
    device_id: str
    state: str | None


class PresenceWriter(Protocol):
    """The presence writer: local, or the proxy of another process."""

    @rpc
    async def set_presence(
        self, user_id: UserID, device_id: str, state: str, status_msg: str | None
    ) -> None:
        """Set a user's state and status message, on behalf of a device."""
        ...

    @rpc(catch_up=False)
    async def current(self, user_id: UserID) -> PresenceRow | None:
        """Return a user's presence, which other processes may not have received yet."""
        ...

    @rpc(catch_up=False)
    async def note_edges(self, instance: str, epoch: int, edges: list[DeviceEdge]) -> None:
        """Handle devices that began or stopped syncing with a process."""
        ...

    @rpc(catch_up=False)
    async def note_active(self, user_ids: list[UserID]) -> None:
        """Record that users are active now."""
        ...

    @rpc(catch_up=False)
    async def set_remote(self, rows: list[PresenceRow]) -> None:
        """Publish the presence of users of other servers."""
        ...

    @rpc(catch_up=False)
    async def keep(self, instance: str, epoch: int) -> bool:
        """Handle a keepalive; return False if the process must report its devices again."""
        ...


@attrs.define(eq=False)
class _Device:
    state: str
    instances: set[str] = attrs.Factory(set)
    until_ms: int = 0


@attrs.define(eq=False)
class _User:
    published: PresenceRow | None = None
    status_msg: str | None = None
    last_active_ms: int = 0
    """The date of the last activity; `active_ms` is the same by the steady clock."""
    active_ms: int | None = None
    devices: dict[str, _Device] = attrs.Factory(dict)
    due_ms: int | None = None
    remote_until_ms: int = 0  # of a user of another server


@attrs.define(eq=False)
class _Instance:
    """A process; `is_complete` if it has been asked for all its devices."""

    epoch: int
    heard_ms: int
    is_complete: bool = False


@attrs.define(eq=False)
class LocalPresenceWriter:
    """The writer in a process that owns the stream, or a share of the users.

    `_shown` returns the users who are not offline by what this process was told.
    """

    _writer: MemoryWriter[PresenceRow]
    _database: Database
    _unsaved: UnsavedPresence
    _settings: PresenceSettings
    _clock: Clock
    _is_local: Callable[[str], bool]
    _may_finish: Callable[[str], bool]
    _shown: Callable[[], Iterable[PresenceRow]]
    _guard: KeyGuard = unguarded
    _users: dict[UserID, _User] = attrs.Factory(dict)
    _instances: dict[str, _Instance] = attrs.Factory(dict)
    _due: list[tuple[int, UserID]] = attrs.Factory(list)
    _gained: list[Matches] = attrs.Factory(list)
    _timer_changed: trio.Event = attrs.Factory(trio.Event)

    @property
    def users_in_memory(self) -> int:
        """Number of users whose devices are followed, or whose state is not stored yet."""
        return len(self._users)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Expire idle users, devices and processes, and store changes, until cancelled."""
        await self.load()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_periodically)
            while True:
                self._timer_changed = trio.Event()
                if self._gained:
                    await self._load_gained()
                wait_ms = self.expire()
                with trio.move_on_after(
                    (INSTANCE_TIMEOUT_MS if wait_ms is None else wait_ms) / 1000
                ):
                    await self._timer_changed.wait()

    async def load(self) -> None:
        """Load users who were not offline before a restart, and give their devices time to sync."""
        self._gained = [lambda user_id: True]
        await self._load_gained()

    def gain(self, matches: Matches) -> None:
        """Begin to load users that another process owned before."""
        self._gained.append(matches)
        for instance in self._instances.values():
            instance.is_complete = False
        self._timer_changed.set()

    def lose(self, matches: Matches) -> None:
        """Forget users, because another process owns them, or will."""
        self._writer.forget(matches)
        self._unsaved.lose(matches)
        for user_id in [user_id for user_id in self._users if matches(user_id)]:
            del self._users[user_id]

    async def _load_gained(self) -> None:
        gained, self._gained = self._gained, []

        def is_gained(user_id: str) -> bool:
            return any(matches(user_id) for matches in gained)

        await self._load(is_gained)
        await self._correct(is_gained)

    async def _correct(self, wanted: Matches) -> None:
        """Publish the presence of users of whom this process was told something else."""
        shown = {UserID(row.user_id): row for row in self._shown() if wanted(row.user_id)}
        records = await self._database.read(storage.list_of_users, list(shown))
        rows = {UserID(record.user_id): _row_of(record) for record in records}
        for user_id in rows.keys() & self._users.keys():
            rows[user_id] = self._users[user_id].published or rows[user_id]
        late = [
            row
            for user_id, row in rows.items()
            if self._may_finish(user_id)
            and _published_fields(row) != _published_fields(shown[user_id])
        ]
        if late:
            self._writer.append_nowait(late)

    async def _load(self, wanted: Matches) -> None:
        for record in await self._database.read(storage.list_not_offline):
            user_id, now_ms = UserID(record.user_id), self._clock.steady_ms()
            if not wanted(user_id) or not self._may_finish(user_id):
                continue
            user = self._users.setdefault(user_id, self._user_from_record(record))
            # What this process has published meanwhile is newer than the record.
            state = record.state if user.published is None else user.published.state
            if not self._is_local(user_id):
                user.remote_until_ms = max(user.remote_until_ms, now_ms + REMOTE_TIMEOUT_MS)
            elif state != OFFLINE:
                placeholder = _Device(state, until_ms=now_ms + self._settings.sync_online_timeout)
                user.devices.setdefault(_PLACEHOLDER, placeholder)
            self._schedule(user_id, user)

    async def set_presence(
        self, user_id: UserID, device_id: str, state: str, status_msg: str | None
    ) -> None:
        """Set a user's state and status message, on behalf of a device."""
        with self._guard((user_id,)):
            user = await self._user(user_id)
            user.status_msg = None if state == OFFLINE else status_msg
            self._note_activity(user)
            if state == OFFLINE:
                user.devices.pop(device_id, None)
                user.devices.pop(_PLACEHOLDER, None)
            else:
                device = user.devices.setdefault(device_id, _Device(state))
                device.state = state
                device.until_ms = self._clock.steady_ms() + self._settings.sync_online_timeout
            self._update(user_id, user)

    async def current(self, user_id: UserID) -> PresenceRow | None:
        """Return a user's presence; None if it is unknown."""
        with self._guard((user_id,)):
            user = self._users.get(user_id)
            if user is not None:
                return user.published
            records = await self._database.read(storage.list_of_users, [user_id])
            return _row_of(records[0]) if records else None

    async def note_edges(self, instance: str, epoch: int, edges: list[DeviceEdge]) -> None:
        """Handle devices that began or stopped syncing with a process."""
        with self._guard(edge.user_id for edge in edges):
            self._contact(instance, epoch)
            for edge in edges:
                user = await self._user(edge.user_id)
                if edge.state is None:
                    device = user.devices.get(edge.device_id)
                    if device is not None:
                        device.instances.discard(instance)
                else:
                    self._start_syncing(user, instance, edge.device_id, edge.state)
                self._update(edge.user_id, user)

    async def note_active(self, user_ids: list[UserID]) -> None:
        """Record that users are active now."""
        with self._guard(user_ids):
            for user_id in user_ids:
                user = await self._user(user_id)
                self._note_activity(user)
                for device in user.devices.values():
                    if device.state == UNAVAILABLE:
                        device.state = ONLINE
                self._update(user_id, user)

    async def keep(self, instance: str, epoch: int) -> bool:
        """Handle a keepalive; return False if the process must report its devices again."""
        contact = self._contact(instance, epoch)
        was_complete, contact.is_complete = contact.is_complete, True
        return was_complete

    async def set_remote(self, rows: list[PresenceRow]) -> None:
        """Publish the presence of users of other servers."""
        until_ms = self._clock.steady_ms() + REMOTE_TIMEOUT_MS
        with self._guard(row.user_id for row in rows):
            for row in rows:
                user_id = UserID(row.user_id)
                user = await self._user(user_id)
                user.devices.clear()
                user.status_msg, user.last_active_ms = row.status_msg, row.last_active_ts
                user.remote_until_ms = 0 if row.state == OFFLINE else until_ms
                if user.published is None or _published_fields(row) != _published_fields(
                    user.published
                ):
                    self._publish(user_id, user, row)
                self._schedule(user_id, user)
                self._forget_offline(user_id)

    def expire(self) -> int | None:
        """Update users whose timers have expired; return the ms until the next timer."""
        now_ms = self._clock.steady_ms()
        for name, instance in list(self._instances.items()):
            if now_ms - instance.heard_ms > INSTANCE_TIMEOUT_MS:
                self._drop(name)
        while self._due and self._due[0][0] <= now_ms:
            due_ms, user_id = heapq.heappop(self._due)
            user = self._users.get(user_id)
            if user is not None and user.due_ms == due_ms:
                user.due_ms = None
                self._update(user_id, user)
        return self._due[0][0] - now_ms if self._due else None

    async def save(self) -> None:
        """Store the changes published since the last time."""
        for user_id in await self._unsaved.save():
            self._forget_offline(user_id)

    async def _save_periodically(self) -> None:
        try:
            while True:
                await self._unsaved.wait()
                await trio.sleep(SAVE_EVERY_S)
                await self.save()
        finally:
            with trio.move_on_after(5, shield=True):
                await self.save()

    async def _user(self, user_id: UserID) -> _User:
        user = self._users.get(user_id)
        if user is not None:
            return user
        records = await self._database.read(storage.list_of_users, [user_id])
        return self._users.setdefault(
            user_id, self._user_from_record(records[0]) if records else _User()
        )

    def _user_from_record(self, record: PresenceRecord) -> _User:
        # The date may have been set back since.
        ago_ms = max(0, self._clock.now_ms() - record.last_active_ms)
        active_ms = self._clock.steady_ms() - ago_ms
        return _User(_row_of(record), record.status_msg, record.last_active_ms, active_ms)

    def _start_syncing(self, user: _User, instance: str, device_id: str, state: str) -> None:
        was_online = any(device.state == ONLINE for device in user.devices.values())
        device = user.devices.setdefault(device_id, _Device(state))
        device.state = state
        device.instances.add(instance)
        # A real device replaces the placeholder from before a restart.
        if device_id != _PLACEHOLDER:
            user.devices.pop(_PLACEHOLDER, None)
        if state == ONLINE and not was_online:
            self._note_activity(user)

    def _note_activity(self, user: _User) -> None:
        user.last_active_ms, user.active_ms = self._clock.now_ms(), self._clock.steady_ms()

    def _contact(self, instance: str, epoch: int) -> _Instance:
        """Note that a process was heard of."""
        found = self._instances.get(instance)
        if found is not None and found.epoch != epoch:
            self._drop(instance)
            found = None
        if found is None:
            found = self._instances[instance] = _Instance(epoch, 0)
        found.heard_ms = self._clock.steady_ms()
        return found

    def _drop(self, instance: str) -> None:
        self._instances.pop(instance, None)
        for user_id, user in list(self._users.items()):
            devices = [device for device in user.devices.values() if instance in device.instances]
            for device in devices:
                device.instances.discard(instance)
            if devices:
                self._update(user_id, user)

    def _update(self, user_id: UserID, user: _User) -> None:
        """Compute a user's presence, and publish it if it has changed."""
        now_ms = self._clock.steady_ms()
        if not self._may_finish(user_id):
            self._schedule_at(user_id, user, now_ms + UNCERTAIN_MS)
            return
        if user.remote_until_ms > now_ms:
            self._schedule(user_id, user)
            return
        user.remote_until_ms = 0
        for device_id, device in list(user.devices.items()):
            if not device.instances and device.until_ms <= now_ms:
                del user.devices[device_id]
        state = self._state(user, now_ms)
        row = PresenceRow(
            user_id=user_id,
            state=state,
            last_active_ts=user.last_active_ms,
            status_msg=user.status_msg,
            currently_active=state == ONLINE
            and _was_active(user, now_ms, self._settings.last_active_granularity),
        )
        if user.published is None or _published_fields(row) != _published_fields(user.published):
            row = attrs.evolve(row, is_quiet=_is_quiet(user.published, row))
            self._publish(user_id, user, row)
        if user.devices:
            self._schedule(user_id, user)
        else:
            self._forget_offline(user_id)

    def _forget_offline(self, user_id: UserID) -> None:
        """Drop a user without devices, as soon as the state is in the database."""
        user = self._users.get(user_id)
        if user is None or user.devices or user.remote_until_ms:
            return
        if not self._unsaved.has(user_id):
            del self._users[user_id]

    def _publish(self, user_id: UserID, user: _User, row: PresenceRow) -> None:
        user.published = row
        self._unsaved.add(row)
        self._writer.append_nowait([row])

    def _state(self, user: _User, now_ms: int) -> str:
        states = [device.state for device in user.devices.values()]
        best = max(states, key=_RANK.__getitem__, default=OFFLINE)
        is_idle = not _was_active(user, now_ms, self._settings.idle_timeout)
        return UNAVAILABLE if best == ONLINE and is_idle else best

    def _schedule(self, user_id: UserID, user: _User) -> None:
        now_ms = self._clock.steady_ms()
        times = [device.until_ms for device in user.devices.values() if not device.instances]
        is_online = user.published is not None and user.published.state == ONLINE
        if user.remote_until_ms:
            times.append(user.remote_until_ms)
        elif is_online and user.active_ms is not None:
            times.append(user.active_ms + self._settings.idle_timeout)
            times.append(user.active_ms + self._settings.last_active_granularity)
        due_ms = min((time for time in times if time > now_ms), default=None)
        if due_ms is not None:
            self._schedule_at(user_id, user, due_ms)

    def _schedule_at(self, user_id: UserID, user: _User, due_ms: int) -> None:
        if user.due_ms is not None and user.due_ms <= due_ms:
            return
        user.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, user_id))
        if self._due[0][0] == due_ms:
            self._timer_changed.set()


def _is_quiet(before: PresenceRow | None, row: PresenceRow) -> bool:
    """Return whether nothing has changed but that the user is no longer currently active."""
    return (
        before is not None
        and not row.currently_active
        and (row.state, row.status_msg) == (before.state, before.status_msg)
    )


def _published_fields(row: PresenceRow) -> tuple[str, str | None, bool]:
    return row.state, row.status_msg, row.currently_active


def _was_active(user: _User, now_ms: int, within_ms: int) -> bool:
    return user.active_ms is not None and now_ms - user.active_ms < within_ms


def _row_of(record: PresenceRecord) -> PresenceRow:
    return PresenceRow(
        record.user_id,
        record.state,
        record.last_active_ms,
        record.status_msg,
        record.currently_active,
    )
