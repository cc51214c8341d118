"""What three real servers exchange beside events: EDUs, devices, media, directories."""

from collections import Counter
from itertools import permutations
from typing import Any
from urllib.parse import quote

import pytest

from hs.core.ids import UserID
from tests.support.devices import KeyPair, one_time_keys
from tests.support.servers.federated_accounts import Account, register_everywhere
from tests.support.servers.processes import Cluster

pytestmark = [
    pytest.mark.process, pytest.mark.postgres, pytest.mark.redis, pytest.mark.long,
]  # fmt: skip

MESSAGES = 250


async def shared_room(owner: Account, *others: Account) -> str:
    """Return a room of these members, which all of them have seen join."""
    room_id = await owner.create_room()
    for account in others:
        await account.join(room_id, owner.server)
    for reader in (owner, *others):
        for account in others:
            await reader.until_member(room_id, account, "join")
    return room_id


async def test_typing_reaches_other_servers(three_servers: dict[str, Cluster]) -> None:
    accounts = await register_everywhere(three_servers)
    room_id = await shared_room(*accounts)
    for typing in accounts:
        for is_typing in (True, False):
            body = {"typing": is_typing, "timeout": 30_000}
            await typing.put("/rooms/{}/typing/{}", room_id, typing.user_id, json=body)
            for reader in accounts:
                await until_typing(reader, room_id, [typing.user_id] if is_typing else [])


async def until_typing(reader: Account, room_id: str, users: list[str]) -> None:
    """Wait until a reader sees who is typing."""
    await reader.until_room(room_id, lambda view: view.typing == users, what=f"typing {users}")


async def test_receipts_reach_other_servers(three_servers: dict[str, Cluster]) -> None:
    accounts = await register_everywhere(three_servers)
    room_id = await shared_room(*accounts)
    for sender in accounts:
        event_id = await sender.send(room_id, f"read this, says {sender.user_id}")
        for reading in accounts:
            if reading is sender:
                continue
            await reading.until_texts(room_id, [f"read this, says {sender.user_id}"])
            await reading.post("/rooms/{}/receipt/m.read/{}", room_id, event_id)
            for reader in accounts:
                await until_read(reader, room_id, reading.user_id, event_id)


async def until_read(reader: Account, room_id: str, user_id: str, event_id: str) -> None:
    """Wait until a reader sees the receipt of a user at an event."""
    await reader.until_room(
        room_id, lambda view: view.receipts.get(user_id) == event_id, what=f"read by {user_id}"
    )


async def test_presence_reaches_other_servers(three_servers: dict[str, Cluster]) -> None:
    accounts = await register_everywhere(three_servers)
    await shared_room(*accounts)
    for present in accounts:
        status = f"at work, says {present.user_id}"
        body = {"presence": "online", "status_msg": status}
        await present.put("/presence/{}/status", present.user_id, json=body)
        for reader in accounts:
            await until_present(reader, present.user_id, status)


async def until_present(reader: Account, user_id: str, status: str) -> None:
    """Wait until a reader sees the presence of a user."""
    await reader.until(
        lambda: reader.presence.get(user_id, {}).get("status_msg") == status,
        what=f"the presence of {user_id}",
    )


async def test_device_messages_arrive_once_and_in_order(
    three_servers: dict[str, Cluster],
) -> None:
    accounts = await register_everywhere(three_servers)
    for sender, receiver in permutations(accounts, 2):
        for number in range(120):
            messages = {receiver.user_id: {receiver.device_id: {"number": number}}}
            path = "/sendToDevice/m.test/{}"
            name = f"{receiver.user_id} {number}"
            await sender.put(path, name, json={"messages": messages})
    for receiver in accounts:
        others = [account.user_id for account in accounts if account is not receiver]
        await until_messages(receiver, 240)
        for sender_id in others:
            got = [each for each in receiver.device_messages if each["sender"] == sender_id]
            assert [message["content"]["number"] for message in got] == list(range(120))


async def until_messages(receiver: Account, count: int) -> None:
    """Wait until a device has received so many messages."""
    await receiver.until(lambda: len(receiver.device_messages) >= count, what="messages")


async def test_device_lists_follow_over_servers(three_servers: dict[str, Cluster]) -> None:
    accounts = await register_everywhere(three_servers)
    await shared_room(*accounts)
    for number, changing in enumerate(accounts):
        others = [account for account in accounts if account is not changing]
        keys = KeyPair.of_device(UserID(changing.user_id), changing.device_id, number + 1)
        await until_changed(changing, others, "/keys/upload", {
            "device_keys": keys.device_keys(),
            "one_time_keys": one_time_keys(1, 2),
        })  # fmt: skip
        user_id, device_id = changing.user_id, changing.device_id
        for reader in others:
            query: dict[str, Any] = {"device_keys": {user_id: []}}
            found = (await reader.post("/keys/query", json=query))["device_keys"][user_id]
            assert found[device_id]["keys"] == keys.device_keys()["keys"]
        claimed = Counter[str]()
        for reader in others:
            claim = {"one_time_keys": {user_id: {device_id: "signed_curve25519"}}}
            result = (await reader.post("/keys/claim", json=claim))["one_time_keys"]
            claimed.update(result[user_id][device_id].keys())
        assert claimed == {"signed_curve25519:0001": 1, "signed_curve25519:0002": 1}
        for reader in others:
            reader.changed_devices.clear()
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": "p",
            "device_id": "SECOND",
        }
        await changing.post("/login", json=login)
        for reader in others:
            query = {"device_keys": {user_id: []}}
            found = (await reader.post("/keys/query", json=query))["device_keys"][user_id]
            assert list(found) == [device_id]  # the new device has no keys


async def until_changed(changing: Account, readers: list[Account], path: str, body: object) -> None:
    """Send a request and wait until readers learn that the devices of the user changed."""
    for reader in readers:
        await reader.sync(0)
        reader.changed_devices.clear()
    await changing.post(path, json=body)
    for reader in readers:
        await until_told(reader, changing)


async def until_told(reader: Account, changing: Account) -> None:
    """Wait until a reader learns that the devices of a user changed."""
    await reader.until(
        lambda: changing.user_id in reader.changed_devices,
        what=f"changed devices of {changing.user_id}",
    )


async def test_media_of_another_server_is_downloaded(three_servers: dict[str, Cluster]) -> None:
    accounts = await register_everywhere(three_servers)
    for uploading in accounts:
        content = f"text of {uploading.user_id} ".encode() * 20_000
        uploaded = await uploading.answer(
            "POST",
            "/_matrix/media/v3/upload?filename=notes.txt",
            body=content,
            headers={"content-type": "text/plain"},
        )
        assert uploaded.status == 200, uploaded.body
        place = uploaded.json["content_uri"].removeprefix("mxc://")
        for reader in accounts:
            for _ in range(3):  # from other processes, too
                answer = await reader.answer("GET", f"/_matrix/client/v1/media/download/{place}")
                assert answer.status == 200, answer.body
                assert answer.body == content
                assert answer.headers["content-type"].startswith("text/plain")
                assert "notes.txt" in answer.headers["content-disposition"]


async def test_room_directory_of_another_server_is_read(
    three_servers: dict[str, Cluster],
) -> None:
    accounts = await register_everywhere(three_servers)
    for owner in accounts:
        room_id = await owner.create_room(visibility="public", name="Listed")
        for reader in accounts:
            server = "" if reader is owner else f"?server={quote(owner.server)}"
            listed = (await reader.get(f"/publicRooms{server}"))["chunk"]
            assert room_id in {room["room_id"] for room in listed}
            assert await reader.join(room_id, owner.server) == room_id


async def test_history_from_before_the_join_is_read(three_servers: dict[str, Cluster]) -> None:
    for owner, second, third in permutations(await register_everywhere(three_servers)):
        room_id = await owner.create_room()
        texts = [f"{room_id} {number}" for number in range(MESSAGES)]
        for text in texts:
            await owner.send(room_id, text)
        await second.join(room_id, owner.server)
        assert await texts_of(second, room_id) == texts
        three_servers[owner.server].kill_all()
        try:
            await third.join(room_id, second.server)
            assert await texts_of(third, room_id) == texts
        finally:
            three_servers[owner.server].start()


async def texts_of(account: Account, room_id: str) -> list[str]:
    """Return the texts of all messages of a room, oldest first."""
    events = await account.history(room_id)
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]
