"""A composed process that serves `/sync`, and what its users set besides events.

async with open_syncing(database) as s:
    room_id = await s.world.create_room(ALICE, join=[BOB])
    await s.set_typing(room_id, BOB)
    answer = await s.sync(ALICE)
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.nursery.services import Services
from hs.services.rooms.append.drafts import Draft
from hs.services.sync.encryption_section import COUNTS, FALLBACKS
from hs.services.sync.notifier import Notifier
from hs.services.sync.sync_context import SyncRequest
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import (
    SETTINGS,
    ComposedProcess,
    Neighbourhood,
    worker_settings,
)
from tests.support.reading import ReadingScene, readers_of
from tests.support.rooms import World, open_world

TYPING_MS = 30_000


@attrs.frozen(eq=False)
class SyncScene:
    """What the clients of a process sync, and how its users change it."""

    world: World

    @property
    def process(self) -> ComposedProcess:
        """The process."""
        return self.world.process

    @property
    def services(self) -> Services:
        """All services of the process."""
        return self.process.services

    @property
    def reading(self) -> ReadingScene:
        """The services that read rooms."""
        return readers_of(self.world)

    @property
    def notifier(self) -> Notifier:
        """The notifier, which wakes long polls."""
        return self.services.sync.notifier

    async def set_account_data(
        self, user_id: UserID, event_type: str, content: Any, room_id: RoomID | None = None
    ) -> None:
        """Set an entry of account data; empty content deletes it."""
        account_data = self.services.core.accounts.account_data
        await account_data.put(user_id, room_id, event_type, content)

    async def set_typing(self, room_id: RoomID, *user_ids: UserID) -> None:
        """Let these members of a room type, and all others stop."""
        ephemeral = self.services.ephemeral
        stopping = set(ephemeral.typing_users.typing_users(room_id)).difference(user_ids)
        timeouts_ms = {**dict.fromkeys(stopping, 0), **dict.fromkeys(user_ids, TYPING_MS)}
        for user_id, timeout_ms in timeouts_ms.items():
            await ephemeral.typing.set_typing(Requester(user_id), room_id, user_id, timeout_ms)

    async def read_up_to(
        self, room_id: RoomID, user_id: UserID, event_id: EventID, kind: str = "m.read"
    ) -> None:
        """Move a member's receipt forward to an event."""
        await self.services.ephemeral.reading.set_receipt(
            Requester(user_id), room_id, kind, event_id
        )

    async def set_presence(self, user_id: UserID, state: str) -> None:
        """Set the presence of a user."""
        presence = self.services.ephemeral.presence
        await presence.set_presence(Requester(user_id), user_id, state, None)

    async def presence_of(self, user_id: UserID) -> str:
        """Return the presence of a user once the process has reported its syncing devices."""
        presence = self.services.ephemeral.presence
        await presence.devices.flush()
        content = await presence.presence_of(Requester(user_id), user_id)
        return str(content["presence"])

    async def set_profile_field(self, user_id: UserID, field: str, value: Any) -> None:
        """Set a profile field of a user."""
        profiles = self.services.core.accounts.profiles
        await profiles.set_field(Requester(user_id), user_id, field, value)

    async def delete_profile_field(self, user_id: UserID, field: str) -> None:
        """Delete a profile field of a user."""
        profiles = self.services.core.accounts.profiles
        await profiles.delete_field(Requester(user_id), user_id, field)

    async def change_rules(self, user_id: UserID) -> None:
        """Add a push rule of a user."""
        body = {"pattern": "news", "actions": []}
        await self.services.core.rules_writer.put(user_id, "content", "news", body, None, None)


@attrs.frozen(eq=False)
class Syncing(SyncScene):
    """A process that serves `/sync`."""

    async def sync(
        self,
        user_id: UserID,
        since: str | None = None,
        *,
        filter: Any = None,
        timeout_ms: int = 0,
        device_id: str | None = "DEVICE",
        **more: Any,
    ) -> dict[str, Any]:
        """Send a request and return the parsed response."""
        text = (
            filter if filter is None or isinstance(filter, str) else orjson.dumps(filter).decode()
        )
        request = SyncRequest(Requester(user_id, device_id), since, timeout_ms, text, **more)
        response: dict[str, Any] = orjson.loads(await self.services.sync.sync.sync(request))
        return response

    async def first_sync(self, user_id: UserID, device_id: str, filter: str | None = None) -> bytes:
        """Send the first request of a device and return the response."""
        request = SyncRequest(Requester(user_id, device_id), filter=filter)
        return await self.services.sync.sync.sync(request)


@asynccontextmanager
async def open_syncing(
    database: Database,
    settings: Settings = SETTINGS,
    *,
    clock: FixedClock | None = None,
    neighbours: Neighbourhood | None = None,
) -> AsyncIterator[Syncing]:
    """Start a process; opening another on the same database afterwards is a restart."""
    async with open_world(database, settings, clock=clock, neighbours=neighbours) as world:
        yield Syncing(world)


def main_and_reader() -> tuple[Settings, Settings]:
    """Return the settings of the main process and of a worker that writes nothing."""
    return worker_settings(SETTINGS, "main", "reader"), worker_settings(SETTINGS, "reader", "main")


def news(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without its token and the key counts, which are always sent."""
    return {
        name: member
        for name, member in response.items()
        if name not in ("next_batch", COUNTS, FALLBACKS)
    }


def mention(sender: UserID, user_id: UserID, **more: Any) -> Draft:
    """Return the draft of a message that mentions a user, who so gets a highlight."""
    content = {"msgtype": "m.text", "body": "look", "m.mentions": {"user_ids": [user_id]}, **more}
    return Draft(event_types.MESSAGE, sender, content)


def bodies(room: dict[str, Any]) -> list[str]:
    """Return the texts in a room's timeline."""
    return [
        event["content"]["body"]
        for event in room["timeline"]["events"]
        if "body" in event["content"]
    ]


def keys(events: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return the state keys of state events."""
    return {(event["type"], event["state_key"]) for event in events}


async def forget(world: World, room_id: RoomID, user_id: UserID) -> None:
    """Let a user forget a room that they have left."""
    membership = world.process.services.members.membership
    await membership.forget(Requester(user_id), room_id)
