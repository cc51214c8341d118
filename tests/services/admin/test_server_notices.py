"""Server notices: one tagged room per user, which the user cannot reject."""

from typing import Any

import attrs
import pytest

from hs.core.errors import CannotLeaveServerNoticeRoom, NotFound
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib.keyed_lock import KeyedLock
from hs.services.admin.server_notices import ServerNotices
from hs.services.rooms.membership.member_policy import MemberPolicy
from hs.services.rooms.membership.membership import JoinRequest
from hs.settings.sections.retention import ServerNoticeSettings
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, SERVER, ZOE

NOTICES_USER = UserID(f"@server:{SERVER}")
TEXT = {"msgtype": "m.server_notice", "body": "the server will be down"}


@attrs.define
class RecordedTags:
    """A writer of room tags that records them in a list."""

    tags: list[tuple[UserID, RoomID, str]] = attrs.Factory(list)

    async def put_tag(self, user_id: UserID, room_id: RoomID, tag: str, content: Any) -> None:
        self.tags.append((user_id, room_id, tag))


def notices_of(actions: Actions, tags: RecordedTags, **settings: Any) -> ServerNotices:
    actions.membership = attrs.evolve(
        actions.membership, policy=MemberPolicy(notices_user=NOTICES_USER)
    )
    return ServerNotices(
        settings=ServerNoticeSettings(system_mxid_localpart="server", **settings),
        notices_user=NOTICES_USER,
        default_version="11",
        database=actions.world.database,
        appender=actions.world.appender,
        memberships=actions.memberships,
        profiles=actions.profiles,
        tags=tags,
        clock=actions.world.clock,
        locks=KeyedLock(),
    )


async def room_of(actions: Actions, user_id: UserID) -> RoomID:
    (room_id,) = await actions.memberships.rooms_of(user_id)
    return room_id


async def test_notice_is_sent_to_a_tagged_room_that_cannot_be_rejected(
    database: Database,
) -> None:
    async with open_actions(database) as actions:
        tags = RecordedTags()
        notices = notices_of(actions, tags, room_topic="About this server")

        event_id = await notices.send(ALICE, TEXT)

        room_id = await room_of(actions, ALICE)
        assert tags.tags == [(ALICE, room_id, "m.server_notice")]
        assert await actions.state(room_id, "m.room.name") == {"name": "Server Notices"}
        assert (await actions.state(room_id, "m.room.topic"))["topic"] == "About this server"
        membership = await actions.state(room_id, "m.room.member", NOTICES_USER)
        assert membership == {"membership": "join", "displayname": "Notices"}
        sent = await actions.world.events.get_one(event_id)
        assert sent is not None
        assert sent.event.content == TEXT
        with pytest.raises(CannotLeaveServerNoticeRoom):
            await actions.membership.leave(Requester(ALICE), room_id)
        with pytest.raises(CannotLeaveServerNoticeRoom):
            await actions.membership.set_member(
                Requester(ALICE), room_id, ALICE, {"membership": "leave"}
            )


async def test_user_who_left_the_notices_room_is_invited_again(
    database: Database,
) -> None:
    async with open_actions(database) as actions:
        notices = notices_of(actions, RecordedTags())
        await notices.send(ALICE, TEXT)
        room_id = await room_of(actions, ALICE)
        await actions.membership.join(Requester(ALICE), room_id, JoinRequest())
        await actions.membership.leave(Requester(ALICE), room_id)

        await notices.send(ALICE, TEXT)
        await notices.send(BOB, TEXT)

        assert await room_of(actions, ALICE) == room_id
        assert await room_of(actions, BOB) != room_id
        assert await actions.memberships.membership(room_id, ALICE) == "invite"


async def test_users_are_joined_if_configured(database: Database) -> None:
    async with open_actions(database) as actions:
        notices = notices_of(actions, RecordedTags(), auto_join=True)

        await notices.send(ALICE, TEXT)

        room_id = await room_of(actions, ALICE)
        assert await actions.memberships.membership(room_id, ALICE) == "join"


async def test_notices_are_sent_to_local_users_only(database: Database) -> None:
    async with open_actions(database) as actions:
        notices = notices_of(actions, RecordedTags())

        with pytest.raises(NotFound):
            await notices.send(ZOE, TEXT)
        with pytest.raises(NotFound):
            await attrs.evolve(notices, notices_user=None).send(ALICE, TEXT)


async def test_notices_user_is_reserved(database: Database) -> None:
    async with open_actions(database) as actions:
        notices = notices_of(actions, RecordedTags())

        await notices.reserve()
        await notices.reserve()
        await attrs.evolve(notices, notices_user=None).reserve()

        assert await database.read(user_ids) == [NOTICES_USER]


async def user_ids(tx: Any) -> list[str]:
    return [row[0] for row in await tx.fetch("SELECT user_id FROM users")]
