"""Fetching of stale device lists, in the processes that own the stream `device_lists`.

The stale lists are rows in the database, so a restart loses none, nor does another owner. Of each
server one list is fetched at a time: one process owns all lists of a server. A server that fails is
asked again after delays that grow, or when it sends the next update of the list.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName, UserID, server_of
from hs.lib.backoff import Backoff
from hs.lib.clock import Clock
from hs.services.devices.remote_devices import ask_servers
from hs.services.federation.requests.users import fetch_devices
from hs.services.federation.users.device_list_storage import RemoteDeviceListWriter
from hs.services.federation.users.fetched_keys import parse_device_list
from hs.services.federation_client.client import FederationClient
from hs.storage.database import Database
from hs.storage.federation import remote_devices
from hs.storage.federation.remote_devices import RemoteListRecord

TIMEOUT_S: Final = 30.0
AT_ONCE: Final = 200
MAX_WAIT_S: Final = 60.0
MIN_WAIT_S: Final = 0.1
FIRST_DELAY_S: Final = 30.0
MAX_DELAY_S: Final = 6 * 3600.0

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class DeviceListFetching:
    """The duty that fetches stale lists."""

    _database: Database
    _client: FederationClient
    _clock: Clock
    _owns: Callable[[str], bool]
    _next_ms: int | None = attrs.field(default=None, init=False)
    _stale: trio.Event = attrs.field(factory=trio.Event, init=False)
    _backoff: Backoff = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S)

    def wake(self) -> None:
        """Look for stale lists now."""
        self._stale.set()

    async def run(self, writer: RemoteDeviceListWriter) -> None:
        """Fetch stale lists for ever."""
        while True:
            self._stale = trio.Event()
            if await self.fetch_due(writer):
                continue
            with trio.move_on_after(self._wait_s()):
                await self._stale.wait()

    async def fetch_due(self, writer: RemoteDeviceListWriter) -> int:
        """Fetch the lists that are due; return how many servers they are of."""
        by_server = await self._due_lists()

        async def fetch_of(server: ServerName) -> None:
            await self._fetch_of_server(by_server[server], writer)

        await ask_servers(by_server, fetch_of)
        return len(by_server)

    async def _due_lists(self) -> dict[ServerName, list[RemoteListRecord]]:
        """Return some lists that are due, by server, and note when the next one will be."""
        now_ms, found, after = self._clock.now_ms(), 0, (-1, "")
        by_server: dict[ServerName, list[RemoteListRecord]] = {}
        self._next_ms = None
        while found < AT_ONCE:
            page = await self._database.read(remote_devices.stale_lists, *after, AT_ONCE)
            for record, fetch_ms in page:
                server = server_of(UserID(record.user_id))
                if not self._owns(server):
                    continue
                if fetch_ms > now_ms:
                    self._next_ms = fetch_ms
                    return by_server
                by_server.setdefault(server, []).append(record)
                found += 1
            if len(page) < AT_ONCE:
                break
            after = (page[-1][1], page[-1][0].user_id)
        return by_server

    async def _fetch_of_server(
        self, records: Sequence[RemoteListRecord], writer: RemoteDeviceListWriter
    ) -> None:
        for number, record in enumerate(records):
            user_id = UserID(record.user_id)
            try:
                response = await fetch_devices(self._client, user_id, TIMEOUT_S)
                fetched = parse_device_list(user_id, response)
            except RemoteFault as fault:
                # A server that does not respond is not asked for the other lists either.
                failed = records[number:] if fault.error is None else [record]
                await self._postpone(failed, fault)
                if fault.error is None:
                    return
            else:
                await writer.store(server_of(user_id), [fetched], {user_id: record.mark})

    async def _postpone(self, records: Sequence[RemoteListRecord], fault: RemoteFault) -> None:
        log.info("fetching device lists of %d users failed: %s", len(records), fault)
        for record in records:
            delay_s = self._backoff.delay_s(record.failures + 1)
            fetch_ms = self._clock.now_ms() + int(delay_s * 1000)
            await self._database.write(remote_devices.postpone, record.user_id, fetch_ms)

    def _wait_s(self) -> float:
        if self._next_ms is None:
            return MAX_WAIT_S
        return min(MAX_WAIT_S, max(MIN_WAIT_S, (self._next_ms - self._clock.now_ms()) / 1000))
