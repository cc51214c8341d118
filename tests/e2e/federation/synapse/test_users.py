"""What users of our server and of Synapse see of each other: profiles, devices, presence."""

from collections.abc import Callable

import pytest
import trio

from hs.core.ids import UserID
from tests.e2e.federation.synapse.conftest import Sides
from tests.support.devices import KeyPair
from tests.support.servers.matrix_user import PASSWORD, V3, WAIT_S, MatrixUser, log_in, path_of
from tests.support.servers.sync_view import Json

pytestmark = [pytest.mark.process, pytest.mark.synapse]

ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


async def shared_room(near: MatrixUser, far: MatrixUser) -> str:
    """Create a room of both users; both have synced to it."""
    room_id = await near.create_room(preset="public_chat")
    await far.join(room_id, near.server)
    await near.wait_for_member(room_id, far.user_id, "join")
    await far.wait_for_member(room_id, near.user_id, "join")
    return room_id


async def upload_keys(user: MatrixUser, one_time_keys: int = 0) -> Json:
    """Upload device keys, which servers do not verify, and one-time keys."""
    device_keys: Json = {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "algorithms": ALGORITHMS,
        "keys": {f"ed25519:{user.device_id}": "A" * 43, f"curve25519:{user.device_id}": "B" * 43},
        "signatures": {user.user_id: {f"ed25519:{user.device_id}": "C" * 86}},
    }
    body: Json = {"device_keys": device_keys}
    body["one_time_keys"] = {f"curve25519:{number}": "D" * 43 for number in range(one_time_keys)}
    await user.call("POST", f"{V3}/keys/upload", body)
    return device_keys


async def queried_keys(user: MatrixUser, of: str) -> Json:
    """Return what a key query says of a user."""
    return await user.call("POST", f"{V3}/keys/query", {"device_keys": {of: []}, "timeout": 10_000})


async def wait_for_keys(reader: MatrixUser, of: str, condition: Callable[[Json], bool]) -> Json:
    """Query keys after each change of a user's devices, until they satisfy a condition."""
    with trio.fail_after(WAIT_S):
        while True:
            reader.view.changed.clear()
            keys = await queried_keys(reader, of)
            if condition(keys):
                return keys
            await reader.wait_for_changed_devices(of)


async def wait_for_devices(reader: MatrixUser, of: str, *device_ids: str) -> Json:
    """Wait until a user has just these devices; return their keys."""
    keys = await wait_for_keys(
        reader, of, lambda keys: set(keys["device_keys"].get(of, ())) == set(device_ids)
    )
    devices: Json = keys["device_keys"][of]
    return devices


async def test_profiles_are_read_and_changes_seen(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            name, avatar = f"I am {user.user_id}", f"mxc://{user.server}/avatar"
            target = path_of("profile", user.user_id)
            await user.call("PUT", f"{target}/displayname", {"displayname": name})
            await user.call("PUT", f"{target}/avatar_url", {"avatar_url": avatar})
            await reader.wait_for_profile(
                room_id, user.user_id, displayname=name, avatar_url=avatar
            )
            profile = await reader.call("GET", target)

            assert profile["displayname"] == name
            assert profile["avatar_url"] == avatar
        absent = f"@nobody:{far.server}"
        assert (await near.request("GET", path_of("profile", absent))).status == 404


async def test_typing_is_seen_and_ends(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            target = path_of("rooms", room_id, "typing", user.user_id)
            await user.call("PUT", target, {"typing": True, "timeout": 30_000})
            await reader.wait_for_typing(room_id, user.user_id)
            await user.call("PUT", target, {"typing": False})
            await reader.wait_for_typing(room_id)


async def test_receipts_are_seen(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            said = await reader.say(room_id, "read this")
            await user.wait_for_event(room_id, said)
            await user.call("POST", path_of("rooms", room_id, "receipt", "m.read", said), {})
            await reader.wait_for_receipt(room_id, said, user.user_id)


async def test_threaded_receipts_are_seen(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await shared_room(near, far)
        root = await near.say(room_id, "root")
        reply = await near.send(
            room_id,
            {
                "msgtype": "m.text",
                "body": "reply",
                "m.relates_to": {"rel_type": "m.thread", "event_id": root},
            },
        )
        await far.wait_for_event(room_id, reply)

        target = path_of("rooms", room_id, "receipt", "m.read", reply)
        await far.call("POST", target, {"thread_id": root})

        def thread_of_receipt(events: list[Json]) -> list[str]:
            receipts = [event["content"] for event in events if event["type"] == "m.receipt"]
            users = [content.get(reply, {}).get("m.read", {}) for content in receipts]
            return [found[far.user_id].get("thread_id") for found in users if far.user_id in found]

        threads = await near.wait_until(lambda view: thread_of_receipt(view.ephemeral[room_id]))
        assert threads == [root]


async def test_presence_is_seen(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            status = f"status of {user.user_id}"
            body = {"presence": "unavailable", "status_msg": status}
            await user.call("PUT", path_of("presence", user.user_id, "status"), body)
            await reader.wait_for_status(user.user_id, status)
            seen = await reader.call("GET", path_of("presence", user.user_id, "status"))

            assert seen["status_msg"] == status


async def test_device_lists_follow_devices(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            first_keys = await upload_keys(user)
            keys = await wait_for_devices(reader, user.user_id, user.device_id)
            assert keys[user.device_id]["keys"] == first_keys["keys"]

            async with await log_in(user) as second:
                await upload_keys(second)
                await wait_for_devices(reader, user.user_id, user.device_id, second.device_id)
                await second.call("POST", f"{V3}/logout", {})
                await wait_for_devices(reader, user.user_id, user.device_id)


async def test_one_time_keys_are_claimed_once(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            await upload_keys(user, one_time_keys=2)
            await queried_keys(reader, user.user_id)
            wanted = {"one_time_keys": {user.user_id: {user.device_id: "curve25519"}}}
            claims = [await reader.call("POST", f"{V3}/keys/claim", wanted) for _ in range(3)]
            keys = [
                set(claim["one_time_keys"].get(user.user_id, {}).get(user.device_id, ()))
                for claim in claims
            ]

            assert keys[0] | keys[1] == {"curve25519:0", "curve25519:1"}
            assert not keys[2]


async def test_to_device_messages_arrive_once_and_in_order(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            bodies = [f"{number} from {user.user_id}" for number in range(25)]
            for number, body in enumerate(bodies):
                target = path_of("sendToDevice", "test.message", f"{user.device_id}{number}")
                messages = {reader.user_id: {reader.device_id: {"body": body}}}
                await user.call("PUT", target, {"messages": messages})
            await reader.wait_until(lambda view: len(view.to_device) >= 25)

            assert [message["content"]["body"] for message in reader.view.to_device] == bodies
            assert {message["sender"] for message in reader.view.to_device} == {user.user_id}


async def test_to_device_message_to_all_devices(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far, await log_in(far) as second:
        target = path_of("sendToDevice", "test.message", "to-all")
        messages = {far.user_id: {"*": {"body": "to all"}}}

        await near.call("PUT", target, {"messages": messages})

        for device in (far, second):
            (message,) = await device.wait_until(lambda view: view.to_device)
            assert message["content"] == {"body": "to all"}


async def test_cross_signing_keys_are_seen(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        await shared_room(near, far)

        for user, reader in ((near, far), (far, near)):
            await upload_keys(user)
            await queried_keys(reader, user.user_id)
            user_id = UserID(user.user_id)
            master, self_signing, user_signing = [KeyPair.of_user(user_id, n) for n in (1, 2, 3)]
            body: Json = {
                "master_key": master.usable_as("master"),
                "self_signing_key": master.signing(self_signing.usable_as("self_signing")),
                "user_signing_key": master.signing(user_signing.usable_as("user_signing")),
                "auth": {
                    "type": "m.login.password",
                    "identifier": {"type": "m.id.user", "user": user.user_id},
                    "password": PASSWORD,
                },
            }
            await user.call("POST", f"{V3}/keys/device_signing/upload", body)

            def has_keys(keys: Json, user_id: str = user.user_id) -> bool:
                return user_id in keys["master_keys"] and user_id in keys["self_signing_keys"]

            keys = await wait_for_keys(reader, user.user_id, has_keys)

            assert keys["master_keys"][user.user_id]["keys"] == body["master_key"]["keys"]
            assert (
                keys["self_signing_keys"][user.user_id]["keys"] == body["self_signing_key"]["keys"]
            )
            assert user.user_id not in keys.get("user_signing_keys", {})
