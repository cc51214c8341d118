"""When and from where each device was last seen, buffered in memory and stored in batches."""

import logging
from collections.abc import Sequence

import attrs
import trio

from hs.lib.clock import Clock
from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.devices import devices
from hs.storage.devices.devices import DeviceRecord, LastSeenUpdate

WRITE_EVERY_S = 60.0
LAST_WRITE_S = 5.0
MAX_WAITING = 100_000  # devices; further devices are not recorded until the next write
MAX_AGENT_CHARS = 500

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class LastSeen:
    """The buffer of sightings, which `run` stores."""

    _database: Database
    _clock: Clock
    _max_age_ms: int | None = None
    _waiting: dict[tuple[str, str], LastSeenUpdate] = attrs.Factory(dict)

    def note(self, user_id: str, device_id: str, client_ip: str, user_agent: str) -> None:
        """Record the use of a device, in memory."""
        key = (user_id, device_id)
        if key in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[key] = LastSeenUpdate(
                user_id, device_id, self._clock.now_ms(), client_ip, user_agent
            )

    def with_latest_sighting(self, user_id: str, record: DeviceRecord) -> DeviceRecord:
        """Return the device record updated with the sighting that is not stored yet."""
        sighting = self._waiting.get((user_id, record.device_id))
        if sighting is None:
            return record
        return record._replace(
            last_seen_ms=sighting.last_seen_ms,
            last_seen_ip=sighting.last_seen_ip,
            last_seen_user_agent=_clean_user_agent(sighting.last_seen_user_agent),
        )

    async def write(self) -> None:
        """Store the buffered sightings."""
        if not self._waiting:
            return
        batch = [
            sighting._replace(last_seen_user_agent=_clean_user_agent(sighting.last_seen_user_agent))
            for sighting in self._waiting.values()
        ]
        self._waiting = {}
        try:
            await self._database.write(_write, batch)
        except DatabaseError as error:
            log.warning("could not store when %d devices were last seen: %s", len(batch), error)

    async def clear_old_addresses(self) -> None:
        """Delete the IP addresses and user agents of devices not seen for the configured time."""
        if self._max_age_ms is not None:
            before_ms = self._clock.now_ms() - self._max_age_ms
            await self._database.write(devices.clear_addresses, before_ms)

    async def run(self) -> None:
        """Store sightings every minute, and a last time when cancelled."""
        try:
            while True:
                await trio.sleep(WRITE_EVERY_S)
                await self.write()
        finally:
            with trio.move_on_after(LAST_WRITE_S, shield=True):
                await self.write()


async def _write(tx: Tx, batch: Sequence[LastSeenUpdate]) -> None:
    await devices.update_last_seen(tx, batch)


def _clean_user_agent(text: str) -> str:
    return text[:MAX_AGENT_CHARS].replace("\0", "")
