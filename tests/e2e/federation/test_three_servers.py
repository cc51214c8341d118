"""What three real servers do together: sharing rooms and, in the long tests, being killed."""

import pytest

from tests.e2e.federation.message_flow import MessageFlow
from tests.support.servers.federated_accounts import (
    Account,
    register_everywhere,
    rotations,
    until_agreed,
)
from tests.support.servers.processes import Cluster

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]


async def test_users_of_three_servers_meet_in_rooms_of_each(
    three_servers: dict[str, Cluster],
) -> None:
    accounts = await register_everywhere(three_servers)
    for owner, invited, other in rotations(accounts):
        alias = f"meeting{owner.user_id[1:].partition(':')[0]}"
        room_id = await owner.create_room(
            room_alias_name=alias, visibility="public", power_level_content_override={"invite": 50}
        )
        await owner.invite(room_id, invited)
        await invited.until_in(room_id, "invite")
        assert await invited.join(room_id) == room_id
        assert await other.join(f"#{alias}:{owner.server}") == room_id
        await talk(room_id, owner, invited, other)
        await change_state(room_id, owner, invited, other)
        await until_agreed(three_servers, room_id, accounts)


async def talk(room_id: str, *members: Account) -> None:
    """Have each member send messages, and see those of all others in their order."""
    texts = {
        member.user_id: [f"{room_id} {number} of {member.user_id}" for number in range(3)]
        for member in members
    }
    for member in members:
        for text in texts[member.user_id]:
            await member.send(room_id, text)
    for member in members:
        await member.until_texts(room_id, [text for sent in texts.values() for text in sent])
        seen = member.view(room_id).texts
        for sent in texts.values():
            assert [text for text in seen if text in sent] == sent


async def change_state(room_id: str, owner: Account, *others: Account) -> None:
    """Have the name changed by the owner and the topic by a moderator of another server."""
    levels = await owner.get("/rooms/{}/state/m.room.power_levels/", room_id)
    levels["users"] = {**levels.get("users", {}), others[0].user_id: 50}
    await owner.set_state(room_id, "m.room.power_levels", levels)
    await others[0].until_state(room_id, "m.room.power_levels", {"users": levels["users"]})
    await owner.set_state(room_id, "m.room.name", {"name": "Tea"})
    await others[0].set_state(room_id, "m.room.topic", {"topic": "Darjeeling"})
    for member in (owner, *others):
        await member.until_state(room_id, "m.room.name", {"name": "Tea"})
        await member.until_state(room_id, "m.room.topic", {"topic": "Darjeeling"})


@pytest.mark.long
async def test_no_message_is_lost_while_each_process_is_killed(
    three_servers: dict[str, Cluster],
) -> None:
    flow = MessageFlow(three_servers)
    await flow.run(flow.kill_each)
