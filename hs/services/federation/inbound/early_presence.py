"""Presence that arrives before the room that makes it visible.

A server in a room sends the presence of its members as soon as it knows of a join, which may be
before the joining server has received the room.
"""

from collections.abc import Collection
from typing import Final

import attrs
import trio

from hs.core.events import event_types
from hs.core.ids import ServerName, UserID
from hs.core.streams import EVENTS, EventRow, PresenceRow
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.services.ephemeral.presence_writer import PresenceWriter
from hs.storage.database import Database
from hs.storage.rooms import memberships as membership_rows

MAX_WAITING: Final = 1000
MAX_AGE_MS: Final = 300_000


@attrs.define(eq=False)
class EarlyPresence:
    """Keeps the newest presence of users in no known room, until a local user joins a room."""

    _database: Database
    _writer: PresenceWriter
    _clock: Clock
    _server_name: ServerName
    _waiting: dict[UserID, tuple[int, PresenceRow]] = attrs.Factory(dict)
    _joined: trio.Event = attrs.Factory(trio.Event)

    def follow(self, feed: Feed) -> None:
        """Subscribe to the events."""
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    def keep(self, rows: Collection[PresenceRow]) -> None:
        """Keep the presence of users who are in no room that this server knows."""
        now_ms = self._clock.steady_ms()
        for row in rows:
            user_id = UserID(row.user_id)
            self._waiting.pop(user_id, None)
            self._waiting[user_id] = (now_ms, row)
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]

    async def run(self) -> None:
        """Publish the kept presence when local users have joined rooms, until cancelled."""
        while True:
            await self._joined.wait()
            self._joined = trio.Event()
            since_ms = self._clock.steady_ms() - MAX_AGE_MS
            self._waiting = {
                user_id: kept for user_id, kept in self._waiting.items() if kept[0] >= since_ms
            }
            joined = await self._database.read(membership_rows.joined_among, list(self._waiting))
            kept = [self._waiting.pop(UserID(each), None) for each in sorted(joined)]
            rows = [each[1] for each in kept if each is not None]
            if rows:
                await self._writer.set_remote(rows)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        suffix = f":{self._server_name}"
        if self._waiting and any(
            row.membership == event_types.JOIN and (row.state_key or "").endswith(suffix)
            for _, row in batch.rows
        ):
            self._joined.set()
