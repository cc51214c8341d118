"""Server notices: one tagged room per user, which the user cannot reject."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.errors import CannotLeaveServerNoticeRoom, NotFound
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.nursery.wiring.rooms.membership import MembershipServices
from hs.services.admin.server_notices import ServerNotices
from hs.services.rooms.membership.room_joins import JoinRequest
from hs.settings.sections.retention import ServerNoticeSettings
from hs.storage.database import Database
from tests.support.composition import SERVER, SETTINGS
from tests.support.rooms import ALICE, BOB, ZOE, World, open_world

NOTICES_USER = UserID(f"@server:{SERVER}")
NOTICES = ServerNoticeSettings(system_mxid_localpart="server")
TEXT = {"msgtype": "m.server_notice", "body": "the server will be down"}


@attrs.frozen(eq=False)
class NoticesScene:
    """The server notices of a process."""

    world: World

    @property
    def notices(self) -> ServerNotices:
        """The sender of notices."""
        return self.world.process.services.admin.notices

    @property
    def members(self) -> MembershipServices:
        """The membership of rooms."""
        return self.world.process.services.members

    async def room_of(self, user_id: UserID) -> RoomID:
        """Return the only room of a user."""
        (room_id,) = await self.world.memberships.rooms_of(user_id)
        return room_id

    async def state(self, room_id: RoomID, event_type: str, key: str = "") -> Mapping[str, Any]:
        """Return the content of an entry of a room's current state."""
        stored = await self.world.states.current_event(room_id, event_type, key)
        return {} if stored is None else stored.event.content


@asynccontextmanager
async def open_notices(database: Database, **settings: Any) -> AsyncIterator[NoticesScene]:
    """Start a process with server notices."""
    notices = attrs.evolve(NOTICES, **settings)
    async with open_world(database, attrs.evolve(SETTINGS, server_notices=notices)) as world:
        yield NoticesScene(world)


async def test_notice_is_sent_to_a_tagged_room_that_cannot_be_rejected(
    database: Database,
) -> None:
    async with open_notices(database, room_topic="About this server") as scene:
        event_id = await scene.notices.send(ALICE, TEXT)

        room_id = await scene.room_of(ALICE)
        account_data = scene.world.process.services.core.accounts.account_data
        assert await account_data.tags(ALICE, room_id) == {"m.server_notice": {}}
        assert await scene.state(room_id, "m.room.name") == {"name": "Server Notices"}
        assert (await scene.state(room_id, "m.room.topic"))["topic"] == "About this server"
        membership = await scene.state(room_id, "m.room.member", NOTICES_USER)
        assert membership == {"membership": "join", "displayname": "Notices"}
        sent = await scene.world.events.get_one(event_id)
        assert sent is not None
        assert sent.event.content == TEXT
        with pytest.raises(CannotLeaveServerNoticeRoom):
            await scene.members.membership.leave(Requester(ALICE), room_id)
        with pytest.raises(CannotLeaveServerNoticeRoom):
            await scene.members.membership.set_member(
                Requester(ALICE), room_id, ALICE, {"membership": "leave"}
            )


async def test_user_who_left_the_notices_room_is_invited_again(
    database: Database,
) -> None:
    async with open_notices(database) as scene:
        await scene.notices.send(ALICE, TEXT)
        room_id = await scene.room_of(ALICE)
        await scene.members.joins.join(Requester(ALICE), room_id, JoinRequest())
        await scene.members.membership.leave(Requester(ALICE), room_id)

        await scene.notices.send(ALICE, TEXT)
        await scene.notices.send(BOB, TEXT)

        assert await scene.room_of(ALICE) == room_id
        assert await scene.room_of(BOB) != room_id
        assert await scene.world.memberships.membership(room_id, ALICE) == "invite"


async def test_users_are_joined_if_configured(database: Database) -> None:
    async with open_notices(database, auto_join=True) as scene:
        await scene.notices.send(ALICE, TEXT)

        room_id = await scene.room_of(ALICE)
        assert await scene.world.memberships.membership(room_id, ALICE) == "join"


async def test_notices_are_sent_to_local_users_only(database: Database) -> None:
    async with open_notices(database) as scene:
        with pytest.raises(NotFound):
            await scene.notices.send(ZOE, TEXT)
    async with open_notices(database, system_mxid_localpart=None) as disabled:
        with pytest.raises(NotFound):
            await disabled.notices.send(ALICE, TEXT)


async def test_notices_user_is_reserved(database: Database) -> None:
    async with open_notices(database, system_mxid_localpart=None) as disabled:
        await disabled.notices.reserve()
        assert await database.read(user_ids) == []
    async with open_notices(database) as scene:
        await scene.notices.reserve()
        await scene.notices.reserve()

        assert await database.read(user_ids) == [NOTICES_USER]


async def user_ids(tx: Any) -> list[str]:
    return [row[0] for row in await tx.fetch("SELECT user_id FROM users")]
