"""What the users of a composed process read of rooms."""

from collections.abc import Collection
from typing import Any

import attrs
import orjson

from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.nursery.services import Services
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.memberships import Memberships
from tests.support.rooms import World
from tests.support.web import Tokens, WebClient


@attrs.frozen(eq=False)
class ReadingScene:
    """The services of a process that read rooms."""

    world: World

    @property
    def services(self) -> Services:
        """All services of the process."""
        return self.world.process.services

    @property
    def memberships(self) -> Memberships:
        """The memberships."""
        return self.world.memberships

    @property
    def rendering(self) -> EventRenderer:
        """The renderer of events."""
        return self.services.reading.rendering

    @property
    def visibility(self) -> Visibility:
        """The visibility of events."""
        return self.services.reading.visibility

    async def ignore(self, user_id: UserID, *ignored: UserID) -> None:
        """Replace the users whom a user ignores."""
        content: dict[str, Any] = {"ignored_users": {each: {} for each in ignored}}
        account_data = self.services.core.accounts.account_data
        await account_data.put(user_id, None, "m.ignored_user_list", content)

    async def see(
        self, user_id: UserID, *event_ids: EventID, device_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Return events as a user receives them; those that the user may not see are left out."""
        stored = await self.world.events.get(event_ids)
        seen = await self.visibility.filter_visible(user_id, list(stored.values()))
        viewer = self.rendering.viewer(
            Requester(user_id, device_id), await self.visibility.ignored_by(user_id)
        )
        await self.rendering.prepare([visible.stored for visible in seen], viewer)
        return [
            orjson.loads(
                self.rendering.timeline_event(
                    visible.stored, viewer, visible.membership, room_id=True
                )
            )
            for visible in seen
        ]

    async def bodies(self, user_id: UserID, room_id: RoomID) -> list[str]:
        """Return the texts of all messages in a room that a user may see."""
        ids = [EventID(row.event_id) for _, row in self.world.seen if row.room_id == room_id]
        events = await self.see(user_id, *ids)
        return [event["content"]["body"] for event in events if "body" in event["content"]]


def readers_of(world: World) -> ReadingScene:
    """Return the readers of a world's process."""
    return ReadingScene(world)


def client_of(
    reading: ReadingScene, *user_ids: UserID, guests: Collection[UserID] = ()
) -> WebClient:
    """Return a client of all endpoints, to whom a user's token is the user ID."""
    tokens = Tokens()
    for user_id in (*user_ids, *guests):
        tokens.requesters[user_id] = Requester(
            user_id, f"{user_id} phone", 1, is_guest=user_id in guests
        )
    return reading.world.process.client(tokens)
