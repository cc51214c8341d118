"""An interfering action immediately before a service appends to a room."""

from collections.abc import Awaitable, Callable

import attrs

from hs.core.ids import RoomID
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft


@attrs.define(eq=False)
class InterferingAppender:
    """A RoomAppender that runs `first` before its first append."""

    inner: RoomAppender
    first: Callable[[], Awaitable[object]] | None

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        first, self.first = self.first, None
        if first is not None:
            await first()
        return await self.inner.append(room_id, drafts)

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        return await self.inner.create(version, drafts)
