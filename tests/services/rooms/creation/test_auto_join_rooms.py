"""Rooms that new users find themselves in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.ids import RoomAlias, RoomID, UserID
from hs.services.rooms.creation.auto_join_rooms import AutoJoin
from hs.settings.sections.rooms import RoomSettings
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, SERVER

LOBBY = f"#lobby:{SERVER}"
HOST = UserID(f"@host:{SERVER}")


@attrs.define
class Door:
    """Where new users come in."""

    acts: Actions
    auto_join: AutoJoin

    async def enter(self, *user_ids: UserID, is_guest: bool = False) -> None:
        for user_id in user_ids:
            record = UserRecord(user_id, None, 1, is_guest=is_guest)
            await self.acts.world.database.write(users.insert_user, record)
            await self.auto_join.arrived(user_id, is_guest=is_guest)

    async def lobby(self) -> RoomID | None:
        found = await self.acts.aliases.find(RoomAlias(LOBBY))
        return None if found is None else found.room_id

    async def membership(self, user_id: UserID) -> str | None:
        room_id = await self.lobby()
        if room_id is None:
            return None
        member = await self.acts.state(room_id, "m.room.member", user_id)
        return member.get("membership")


@asynccontextmanager
async def open_door(database: Database, **settings: Any) -> AsyncIterator[Door]:
    chosen = RoomSettings(auto_join_rooms=(LOBBY,), **settings)
    async with open_actions(database, settings=chosen) as acts:
        yield Door(
            acts,
            AutoJoin(
                settings=chosen,
                server_name=SERVER,
                database=database,
                naming=acts.naming,
                creation=acts.creation,
                membership=acts.membership,
                memberships=acts.memberships,
            ),
        )


async def test_the_first_user_makes_the_room_and_others_join(database: Database) -> None:
    async with open_door(database) as door:
        await door.enter(ALICE, BOB)

        assert await door.membership(ALICE) == "join"
        assert await door.membership(BOB) == "join"
        room_id = await door.lobby()
        assert room_id is not None
        made = await door.acts.state(room_id, "m.room.create")
        assert "m.federate" not in made


async def test_later_users_do_not_make_it(database: Database) -> None:
    async with open_door(database, autocreate_auto_join_rooms=False) as door:
        await door.enter(ALICE)
    async with open_door(database) as door:
        await door.enter(BOB)

        assert await door.lobby() is None


async def test_the_room_may_be_closed_to_other_servers(database: Database) -> None:
    async with open_door(database, autocreate_auto_join_rooms_federated=False) as door:
        await door.enter(ALICE)

        room_id = await door.lobby()
        assert room_id is not None
        assert (await door.acts.state(room_id, "m.room.create"))["m.federate"] is False


@pytest.mark.parametrize("preset", ["private_chat", "trusted_private_chat"])
async def test_a_host_invites_to_a_private_room(database: Database, preset: str) -> None:
    async with open_door(
        database,
        auto_join_mxid_localpart="host",
        autocreate_auto_join_room_preset=preset,
    ) as door:
        await door.acts.world.database.write(users.insert_user, UserRecord(HOST, None, 1))
        await door.enter(ALICE, BOB)

        room_id = await door.lobby()
        assert room_id is not None
        assert (await door.acts.state(room_id, "m.room.join_rules"))["join_rule"] == "invite"
        assert [await door.membership(one) for one in (HOST, ALICE, BOB)] == ["join"] * 3


async def test_a_host_who_is_not_there_makes_nothing(database: Database) -> None:
    async with open_door(database, auto_join_mxid_localpart="host") as door:
        await door.enter(ALICE)

        assert await door.lobby() is None


async def test_guests_may_be_left_out(database: Database) -> None:
    async with open_door(database, auto_join_rooms_for_guests=False) as door:
        await door.enter(ALICE)
        await door.enter(BOB, is_guest=True)

        assert await door.membership(BOB) is None


async def test_a_room_that_is_out_of_reach_hinders_nobody(database: Database) -> None:
    async with open_door(database) as door:
        elsewhere = attrs.evolve(
            door.auto_join,
            settings=RoomSettings(auto_join_rooms=("#a:elsewhere.test", "nonsense", LOBBY)),
        )
        await Door(door.acts, elsewhere).enter(ALICE)

        assert await door.membership(ALICE) == "join"
