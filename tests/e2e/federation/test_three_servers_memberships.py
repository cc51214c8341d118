"""Memberships of rooms that three real servers share."""

from itertools import permutations

import pytest
import trio

from tests.support.servers.federated_accounts import (
    Account,
    register_everywhere,
    until_agreed,
)
from tests.support.servers.processes import Cluster

pytestmark = [
    pytest.mark.process, pytest.mark.postgres, pytest.mark.redis, pytest.mark.long,
]  # fmt: skip

FORBIDDEN = 403


async def trios(servers: dict[str, Cluster]) -> list[tuple[Account, ...]]:
    """Return new accounts on all servers, in each order."""
    return list(permutations(await register_everywhere(servers)))


async def private_room(owner: Account, *invited: Account) -> str:
    """Return a room of these members."""
    room_id = await owner.create_room(preset="private_chat")
    await owner.invite(room_id, *invited)
    for account in invited:
        await account.until_in(room_id, "invite")
        await account.join(room_id)
    for account in invited:
        await owner.until_member(room_id, account, "join")
    return room_id


async def until_all_see(user: Account, membership: str, room_id: str, *readers: Account) -> None:
    """Wait until readers see a user with a membership."""
    for reader in readers:
        await reader.until_member(room_id, user, membership)


async def test_invite_is_rejected(three_servers: dict[str, Cluster]) -> None:
    for owner, invited, third in await trios(three_servers):
        room_id = await private_room(owner, third)
        await owner.invite(room_id, invited)
        await invited.until_in(room_id, "invite")
        assert invited.view(room_id).stripped["m.room.create", ""] is not None

        await invited.leave(room_id)

        await until_all_see(invited, "leave", room_id, owner, third)
        path = f"/join/{{}}?via={owner.server}"
        assert (await invited.refused(path, room_id)).status == FORBIDDEN
        await until_agreed(three_servers, room_id, [owner, third])


async def test_invite_is_taken_back(three_servers: dict[str, Cluster]) -> None:
    for owner, invited, third in await trios(three_servers):
        room_id = await private_room(owner, third)
        await third.until_member(room_id, third, "join")
        await owner.invite(room_id, invited)
        await invited.until_in(room_id, "invite")

        await owner.act("kick", room_id, invited)

        await invited.until_in(room_id, "leave")
        await until_all_see(invited, "leave", room_id, third)
        path = f"/join/{{}}?via={owner.server}"
        assert (await invited.refused(path, room_id)).status == FORBIDDEN
        await until_agreed(three_servers, room_id, [owner, third])


async def test_member_leaves_and_returns(three_servers: dict[str, Cluster]) -> None:
    for owner, second, third in await trios(three_servers):
        room_id = await owner.create_room()
        await second.join(room_id, owner.server)
        await third.join(room_id, second.server)
        for number in range(3):
            await second.leave(room_id)
            await until_all_see(second, "leave", room_id, owner, third)
            await owner.send(room_id, f"missed {number}")
            await second.join(room_id, (owner, third)[number % 2].server)
            await until_all_see(second, "join", room_id, owner, third)
            await second.send(room_id, f"back {number}")

        texts = [f"{word} {number}" for number in range(3) for word in ("missed", "back")]
        await owner.until_texts(room_id, texts)
        await third.until_texts(room_id, texts)
        await second.until_texts(room_id, ["back 2"])
        await until_agreed(three_servers, room_id, [owner, second, third])
        seen = [event["content"].get("body") for event in await second.history(room_id)]
        assert [text for text in seen if text in texts] == texts


async def test_join_misses_nothing_that_is_sent_meanwhile(
    three_servers: dict[str, Cluster],
) -> None:
    for owner, joining, third in await trios(three_servers):
        room_id = await owner.create_room()
        await third.join(room_id, owner.server)
        texts, stop = list[str](), trio.Event()
        async with trio.open_nursery() as nursery:
            for account in (owner, third):
                nursery.start_soon(talk_until, stop, account, room_id, texts)
            for _ in range(5):
                await joining.join(room_id, owner.server)
                await until_all_see(joining, "join", room_id, owner, third)
                await joining.leave(room_id)
                await until_all_see(joining, "leave", room_id, owner, third)
            await joining.join(room_id, third.server)
            stop.set()
        await owner.until_texts(room_id, texts)
        await owner.send(room_id, "that is all")
        # What arrived late may be a further extremity, until an event cites it.
        await joining.until_texts(room_id, ["that is all"])
        await joining.send(room_id, "thanks")
        texts += ["that is all", "thanks"]

        await until_agreed(three_servers, room_id, [owner, joining, third])
        for reader in (owner, joining, third):
            history = [event["content"].get("body") for event in await reader.history(room_id)]
            assert sorted(text for text in history if text) == sorted(texts)


async def talk_until(stop: trio.Event, account: Account, room_id: str, texts: list[str]) -> None:
    """Send messages until stopped."""
    number = 0
    while not stop.is_set():
        number += 1
        text = f"{account.user_id} {number}"
        await account.send(room_id, text)
        texts.append(text)


async def test_creator_leaves_and_returns_through_others(
    three_servers: dict[str, Cluster],
) -> None:
    for owner, second, third in await trios(three_servers):
        room_id = await owner.create_room()
        await second.join(room_id, owner.server)
        await third.join(room_id, owner.server)
        await owner.leave(room_id)
        await until_all_see(owner, "leave", room_id, second, third)
        await second.send(room_id, "without you")
        await third.until_texts(room_id, ["without you"])

        await owner.join(room_id, second.server, third.server)

        await owner.send(room_id, "here again")
        for reader in (second, third):
            await reader.until_texts(room_id, ["without you", "here again"])
        await until_agreed(three_servers, room_id, [owner, second, third])
        assert "without you" in [
            each["content"].get("body") for each in await owner.history(room_id)
        ]


async def test_member_is_kicked_and_banned(three_servers: dict[str, Cluster]) -> None:
    for owner, second, third in await trios(three_servers):
        room_id = await owner.create_room()
        await second.join(room_id, owner.server)
        await third.join(room_id, owner.server)
        await until_all_see(second, "join", room_id, owner, third)

        await owner.act("kick", room_id, second)
        await until_all_see(second, "leave", room_id, second, third)
        message = "/rooms/{}/send/m.room.message/kicked"
        refused = await second.answer(
            "PUT",
            f"/_matrix/client/v3{message.format(room_id)}",
            json={"msgtype": "m.text", "body": "no"},
        )
        assert refused.status == FORBIDDEN
        await second.join(room_id, third.server)
        await until_all_see(second, "join", room_id, owner, third)

        await owner.act("ban", room_id, second)
        await until_all_see(second, "ban", room_id, second, third)
        assert (await second.refused(f"/join/{{}}?via={owner.server}", room_id)).status == FORBIDDEN
        assert (await second.refused(f"/join/{{}}?via={third.server}", room_id)).status == FORBIDDEN
        await owner.act("unban", room_id, second)
        await until_all_see(second, "leave", room_id, third)
        await second.join(room_id, third.server)
        await until_all_see(second, "join", room_id, owner, third)
        await second.send(room_id, "thanks")
        for reader in (owner, third):
            await reader.until_texts(room_id, ["thanks"])
        await until_agreed(three_servers, room_id, [owner, second, third])


async def test_knock_is_answered_by_an_invite(three_servers: dict[str, Cluster]) -> None:
    for owner, knocking, third in await trios(three_servers):
        room_id = await owner.create_room(
            initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        )
        await owner.invite(room_id, third)
        await third.join(room_id, owner.server)

        await knocking.post(f"/knock/{{}}?via={owner.server}", room_id)

        await until_all_see(knocking, "knock", room_id, owner, third)
        await owner.invite(room_id, knocking)
        await knocking.until_in(room_id, "invite")
        await knocking.join(room_id)
        await until_all_see(knocking, "join", room_id, owner, third)
        await until_agreed(three_servers, room_id, [owner, knocking, third])


async def test_members_of_another_room_may_join(three_servers: dict[str, Cluster]) -> None:
    for owner, joining, third in await trios(three_servers):
        allowed = await owner.create_room()
        allow = [{"type": "m.room_membership", "room_id": allowed}]
        rules = {"join_rule": "restricted", "allow": allow}
        room_id = await owner.create_room(
            initial_state=[{"type": "m.room.join_rules", "content": rules}]
        )
        assert (
            await joining.refused(f"/join/{{}}?via={owner.server}", room_id)
        ).status == FORBIDDEN

        for account in (joining, third):
            await account.join(allowed, owner.server)
            await account.join(room_id, owner.server)

        await until_all_see(joining, "join", room_id, owner, third)
        await until_agreed(three_servers, room_id, [owner, joining, third])


async def test_profile_changes_in_shared_rooms(three_servers: dict[str, Cluster]) -> None:
    for owner, second, third in await trios(three_servers):
        room_id = await owner.create_room()
        for account in (second, third):
            await account.join(room_id, owner.server)
        for account in (second, third):
            await until_all_see(account, "join", room_id, owner, second, third)

        path = "/profile/{}/displayname"
        name = f"Second of {room_id}"
        await second.put(path, second.user_id, json={"displayname": name})

        for reader in (owner, third):
            content = {"displayname": name}
            await reader.until_state(room_id, "m.room.member", content, second.user_id)
            assert await reader.get(path, second.user_id) == {"displayname": name}
        await until_agreed(three_servers, room_id, [owner, second, third])


async def test_invite_is_rejected_while_its_server_is_away(
    three_servers: dict[str, Cluster],
) -> None:
    for owner, invited, third in await trios(three_servers):
        room_id = await private_room(owner, third)
        await owner.invite(room_id, invited)
        await invited.until_in(room_id, "invite")
        three_servers[owner.server].kill_all()
        try:
            await invited.leave(room_id)
            await invited.until_in(room_id, "leave")
        finally:
            three_servers[owner.server].start()
        assert room_id not in (await invited.get("/joined_rooms"))["joined_rooms"]
