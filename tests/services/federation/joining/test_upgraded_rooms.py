"""Aliases and directory entries of rooms that users of other servers have upgraded."""

import pytest

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, join
from tests.support.federation import FederatedServer, open_servers


@pytest.mark.parametrize("version", ["11", "12"])
async def test_local_alias_and_directory_entry_follow_to_the_new_room(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        old = await far.world.create_room(ANN, version="10")
        upgrades = far.process.services.creation.upgrades
        new = await upgrades.upgrade(Requester(ANN), old, version)

        assert await _room_of_alias_after_joining(near, old, new) == new
        public_rooms = near.process.services.aliases.public_rooms
        assert (await public_rooms.is_listed(old), await public_rooms.is_listed(new)) == (
            False,
            True,
        )


@pytest.mark.parametrize("replacement", [None, "!another:far.example"])
async def test_alias_stays_with_a_room_that_does_not_name_its_successor(
    replacement: str | None,
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        old = await far.world.create_room(ANN)
        if replacement is not None:
            tombstone = {"body": "", "replacement_room": replacement}
            await far.world.set_state(old, ANN, "m.room.tombstone", tombstone)
        create = Draft("m.room.create", ANN, {"creator": ANN, "predecessor": {"room_id": old}}, "")
        join_rules = Draft("m.room.join_rules", ANN, {"join_rule": "public"}, "")
        created = await far.world.appender.create(
            "10", [create, Draft("m.room.member", ANN, {"membership": "join"}, ANN), join_rules]
        )

        assert await _room_of_alias_after_joining(near, old, created[0].room_id) == old


async def _room_of_alias_after_joining(
    near: FederatedServer, old: RoomID, new: RoomID
) -> RoomID | None:
    """Join the old room, name and publish it, join the new one; return the alias's room."""
    services = near.process.services.aliases
    await join(near, BEN, old, FAR)
    alias = services.aliases.local_alias("tea")
    await services.aliases.add(BEN, alias, old)
    await services.public_rooms.set_listed(old, True)
    await join(near, BEN, new, FAR)
    found = await services.aliases.find(alias)
    return None if found is None else found.room_id
