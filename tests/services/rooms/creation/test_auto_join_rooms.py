"""Rooms that new users join automatically."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.ids import RoomAlias, RoomID, UserID
from hs.settings.sections.retention import ServerNoticeSettings
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.room_actions import Actions, open_actions, room_settings
from tests.support.rooms import ALICE, BOB

LOBBY = f"#lobby:{SERVER}"
NO_NOTICES = ServerNoticeSettings()
HOST = UserID(f"@host:{SERVER}")


@attrs.define
class Registration:
    """Registers new users and has them join."""

    acts: Actions

    async def register(self, *user_ids: UserID, is_guest: bool = False) -> None:
        for user_id in user_ids:
            record = UserRecord(user_id, None, 1, is_guest=is_guest)
            await self.acts.world.database.write(users.insert_user, record)
            await self.acts.services.creation.auto_join.on_new_user(user_id, is_guest=is_guest)

    async def find_lobby(self) -> RoomID | None:
        alias = await self.acts.aliases.find(RoomAlias(LOBBY))
        return None if alias is None else alias.room_id

    async def membership(self, user_id: UserID) -> str | None:
        room_id = await self.find_lobby()
        if room_id is None:
            return None
        member = await self.acts.state(room_id, "m.room.member", user_id)
        return member.get("membership")


@asynccontextmanager
async def open_registration(
    database: Database,
    *,
    auto_join_rooms: tuple[str, ...] = (LOBBY,),
    notices: ServerNoticeSettings = NO_NOTICES,
    **settings: Any,
) -> AsyncIterator[Registration]:
    chosen = attrs.evolve(
        room_settings(auto_join_rooms=auto_join_rooms, **settings), server_notices=notices
    )
    async with open_actions(database, chosen) as acts:
        yield Registration(acts)


async def test_first_user_creates_the_room_and_others_join(database: Database) -> None:
    async with open_registration(database) as registration:
        await registration.register(ALICE, BOB)

        assert await registration.membership(ALICE) == "join"
        assert await registration.membership(BOB) == "join"
        room_id = await registration.find_lobby()
        assert room_id is not None
        create = await registration.acts.state(room_id, "m.room.create")
        assert "m.federate" not in create


async def test_sender_of_server_notices_does_not_count_as_the_first_user(
    database: Database,
) -> None:
    notices = ServerNoticeSettings(system_mxid_localpart="notices")
    async with open_registration(database, notices=notices) as registration:
        sender = UserRecord(UserID(f"@notices:{SERVER}"), None, 1)
        await registration.acts.world.database.write(users.insert_user, sender)
        await registration.register(ALICE, BOB)

        assert await registration.membership(ALICE) == "join"
        assert await registration.membership(BOB) == "join"


async def test_later_users_do_not_create_the_room(database: Database) -> None:
    async with open_registration(database, autocreate_auto_join_rooms=False) as registration:
        await registration.register(ALICE)
    async with open_registration(database) as registration:
        await registration.register(BOB)

        assert await registration.find_lobby() is None


async def test_room_can_be_created_unfederated(database: Database) -> None:
    async with open_registration(
        database, autocreate_auto_join_rooms_federated=False
    ) as registration:
        await registration.register(ALICE)

        room_id = await registration.find_lobby()
        assert room_id is not None
        assert (await registration.acts.state(room_id, "m.room.create"))["m.federate"] is False


@pytest.mark.parametrize("preset", ["private_chat", "trusted_private_chat"])
async def test_host_invites_to_a_private_room(database: Database, preset: str) -> None:
    async with open_registration(
        database,
        auto_join_mxid_localpart="host",
        autocreate_auto_join_room_preset=preset,
    ) as registration:
        await registration.acts.world.database.write(users.insert_user, UserRecord(HOST, None, 1))
        await registration.register(ALICE, BOB)

        room_id = await registration.find_lobby()
        assert room_id is not None
        assert (await registration.acts.state(room_id, "m.room.join_rules"))[
            "join_rule"
        ] == "invite"
        assert [await registration.membership(user_id) for user_id in (HOST, ALICE, BOB)] == [
            "join"
        ] * 3


async def test_missing_host_creates_no_room(database: Database) -> None:
    async with open_registration(database, auto_join_mxid_localpart="host") as registration:
        await registration.register(ALICE)

        assert await registration.find_lobby() is None


async def test_guests_do_not_join_if_disabled(database: Database) -> None:
    async with open_registration(database, auto_join_rooms_for_guests=False) as registration:
        await registration.register(ALICE)
        await registration.register(BOB, is_guest=True)

        assert await registration.membership(BOB) is None


async def test_unreachable_room_does_not_prevent_other_joins(database: Database) -> None:
    auto_join_rooms = ("#a:elsewhere.test", "nonsense", LOBBY)
    async with open_registration(database, auto_join_rooms=auto_join_rooms) as registration:
        await registration.register(ALICE)

        assert await registration.membership(ALICE) == "join"
