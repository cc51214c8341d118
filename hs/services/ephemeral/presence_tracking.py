"""The syncing devices of one process, whose changes are reported to the presence writer.

Rules:

- A device counts as syncing while a request is open and for `sync_online_timeout` after it, so that
  consecutive requests are not reported. Such a request costs a few dictionary lookups: there are no
  timers of devices. Those without a request are in the order in which their requests ended, so that
  only those that have expired are looked at.
- Only the latest unreported change of each device is kept. If a report fails, its changes are put
  back unless newer ones exist, and `run` retries after RETRY_S.
- A device that syncs while its user is known as offline is reported again, because the user may
  have set the presence to offline explicitly.
- Activity is reported at most every half `last_active_granularity`, and only for users who are not
  offline; reporting activity of offline users would cost the writer a database read.
- Keepalives are sent while there are devices. If a writer does not know the process, or its reply
  is lost, all devices are reported again.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from types import TracebackType
from typing import Final

import attrs
import trio

from hs.core.errors import MatrixError
from hs.core.ids import UserID
from hs.core.streams import EVENTS, EventRow
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_writer import OFFLINE, DeviceEdge, PresenceWriter
from hs.settings.sections.features import PresenceSettings

log = logging.getLogger(__name__)

KEEPALIVE_EVERY_MS: Final = 15_000
MAX_EDGES: Final = 1000
RETRY_S: Final = 1.0
PRESENT_WITHIN_S: Final = 0.2
PRESENT_POLL_S: Final = 0.005
_Key = tuple[UserID, str]


def watch_senders(
    feed: Feed, devices: "SyncingDevices", is_watched: Callable[[UserID], bool]
) -> None:
    """Count the local senders of events as active whose presence this process computes."""

    def on_events(batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            sender = UserID(row.sender)
            if is_watched(sender):
                devices.note_active(sender)

    feed.subscribe(EVENTS, on_events)


@attrs.define(eq=False)
class _Device:
    key: _Key
    state: str
    open: int = 0
    until_ms: int = 0


@attrs.frozen(eq=False)
class _Syncing:
    """An open request of a device. A class, because a generator would cost more in every poll."""

    _devices: "SyncingDevices"
    _device: _Device

    def __enter__(self) -> None:
        self._device.open += 1
        self._devices.pause_expiry(self._device)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._device.open -= 1
        if not self._device.open:
            self._devices.expire_later(self._device)


@attrs.define(eq=False)
class SyncingDevices:
    """The syncing devices of one process; `epoch` identifies the present life of the process."""

    _instance: str
    _epoch: int
    _writer: PresenceWriter
    _states: PresenceStates
    _settings: PresenceSettings
    _clock: Clock
    _devices: dict[_Key, _Device] = attrs.Factory(dict)
    _expiring: OrderedDict[_Key, _Device] = attrs.Factory(OrderedDict)
    _edges: dict[_Key, str | None] = attrs.Factory(dict)
    _active: dict[UserID, int] = attrs.Factory(dict)
    _newly_active: set[UserID] = attrs.Factory(set)
    _wake: trio.Event = attrs.Factory(trio.Event)
    _keepalive_ms: int = 0

    def syncing(
        self, user_id: UserID, device_id: str | None, state: str
    ) -> AbstractContextManager[None]:
        """Count a device as syncing while the context is open; `state` is `set_presence`."""
        if state == OFFLINE or self._settings.enabled is not True:
            return nullcontext()
        key = (user_id, device_id or "")
        device = self._devices.get(key)
        if device is None:
            device = self._devices[key] = _Device(key, state)
            self._report(key, state)
        elif device.state != state or self._was_set_offline(user_id):
            device.state = state
            self._report(key, state)
        return _Syncing(self, device)

    async def wait_until_present(self, user_id: UserID) -> None:
        """Wait until a user who syncs is not offline, or for PRESENT_WITHIN_S.

        An initial sync does so, because otherwise the next sync of the device would be answered at
        once with the presence that this one has caused.
        """
        if self._settings.enabled is not True:
            return
        with trio.move_on_after(PRESENT_WITHIN_S), suppress(MatrixError):
            # What cannot be reported now is reported by `run`.
            await self.flush()
            while not self._is_present(user_id):  # noqa: ASYNC110  # a short wait for a row
                await trio.sleep(PRESENT_POLL_S)

    def pause_expiry(self, device: _Device) -> None:
        """Count a device as syncing until `expire_later` is called."""
        self._expiring.pop(device.key, None)

    def expire_later(self, device: _Device) -> None:
        """Count a device as syncing for `sync_online_timeout` from now."""
        device.until_ms = self._clock.steady_ms() + self._settings.sync_online_timeout
        self._expiring[device.key] = device

    def note_active(self, user_id: UserID) -> None:
        """Record that a user is active, if the user is not offline.

        Repetitions within half of the visible granularity are ignored.
        """
        if self._settings.enabled is not True or not self._is_present(user_id):
            return
        now_ms = self._clock.steady_ms()
        active_ms = self._active.get(user_id)
        interval_ms = self._settings.last_active_granularity // 2
        if active_ms is None or now_ms - active_ms >= interval_ms:
            self._active[user_id] = now_ms
            self._newly_active.add(user_id)
            self._wake.set()

    async def run(self) -> None:
        """Report changes as they occur, and send keepalives, until cancelled."""
        self._keepalive_ms = self._clock.steady_ms()
        while True:
            with trio.move_on_after(
                min(KEEPALIVE_EVERY_MS, self._settings.sync_online_timeout) / 1000
            ):
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                await self.flush()
            except MatrixError as error:
                log.warning("reporting presence to its writer failed, retrying: %s", error)
                self._wake.set()
                await trio.sleep(RETRY_S)

    async def flush(self) -> None:
        """Report the changes since the last time."""
        self._end_expired()
        while self._edges:
            keys = list(islice(self._edges, MAX_EDGES))
            edges = [DeviceEdge(*key, self._edges.pop(key)) for key in keys]
            try:
                await self._writer.note_edges(self._instance, self._epoch, edges)
            except BaseException:
                for edge in edges:
                    self._edges.setdefault((edge.user_id, edge.device_id), edge.state)
                raise
        active, self._newly_active = self._newly_active, set()
        if active:
            await self._writer.note_active(sorted(active))
        await self._send_keepalive()

    def _is_present(self, user_id: UserID) -> bool:
        row = self._states.get_nowait(user_id)
        return row is not None and row.state != OFFLINE

    def _was_set_offline(self, user_id: UserID) -> bool:
        row = self._states.get_nowait(user_id)
        return row is not None and row.state == OFFLINE

    def _report(self, key: _Key, state: str | None) -> None:
        self._edges[key] = state
        self._wake.set()

    def _end_expired(self) -> None:
        now_ms = self._clock.steady_ms()
        while self._expiring:
            key, device = next(iter(self._expiring.items()))
            if device.until_ms > now_ms:
                break
            del self._expiring[key], self._devices[key]
            self._edges[key] = None
        if len(self._active) > len(self._devices) + MAX_EDGES:
            self._active.clear()

    async def _send_keepalive(self) -> None:
        now_ms = self._clock.steady_ms()
        if not self._devices or now_ms - self._keepalive_ms < KEEPALIVE_EVERY_MS:
            return
        self._keepalive_ms, is_known = now_ms, False
        try:
            is_known = await self._writer.keep(self._instance, self._epoch)
        finally:
            # Also if the reply was lost, because the writer asks only once.
            if not is_known:
                for key, device in self._devices.items():
                    self._edges.setdefault(key, device.state)
                self._wake.set()
