"""matrix-nio with real encryption: rooms, files, verified devices, and keys kept on the server."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nio
import pytest
from nio.crypto.attachments import decrypt_attachment

from tests.support.nio_client import PASSWORD, WanderingClient, done, registered, run_scenario
from tests.support.processes import Cluster

pytest.importorskip("vodozemac", reason="matrix-nio encrypts with vodozemac: matrix-nio[e2e]")

pytestmark = pytest.mark.process
ENCRYPTED = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


async def device(cluster: Cluster, name: str) -> WanderingClient:
    """Log in a device that encrypts."""
    client = WanderingClient(
        cluster.any_url, name, encryption_enabled=True, store=nio.store.SqliteMemoryStore
    )
    done(await client.login(PASSWORD, device_name="a device"), nio.LoginResponse)
    await client.keys_upload()
    await turn(client, timeout_ms=0)
    return client


async def turn(client: WanderingClient, timeout_ms: int = 2000) -> nio.SyncResponse:
    """Sync once, and do what nio wants done then."""
    answer = done(await client.sync(timeout=timeout_ms, full_state=False), nio.SyncResponse)
    await client.send_to_device_messages()
    if client.should_upload_keys:
        await client.keys_upload()
    if client.should_query_keys:
        await client.keys_query()
    if client.should_claim_keys:
        await client.keys_claim(client.get_users_for_key_claiming())
    return answer


async def turns_until(passes: Callable[[], Any], *clients: WanderingClient) -> None:
    """Have clients sync until something is so."""
    while not passes():
        await asyncio.gather(*(turn(client) for client in clients))


def heard(client: WanderingClient) -> list[Any]:
    """Keep a list of all that others said and a client could decrypt."""
    events: list[Any] = []

    def keep(room: nio.MatrixRoom, event: nio.Event) -> None:
        if event.decrypted and event.sender != client.user_id:
            events.append(event)

    client.add_event_callback(keep, (nio.RoomMessageText, nio.RoomEncryptedFile))
    return events


async def say(client: WanderingClient, room_id: str, content: dict[str, Any]) -> None:
    """Send a message to all devices, verified or not."""
    sent = await client.room_send(
        room_id, "m.room.message", content, ignore_unverified_devices=True
    )
    done(sent, nio.RoomSendResponse)


def text(body: str) -> dict[str, Any]:
    """Make the content of a text message."""
    return {"msgtype": "m.text", "body": body}


async def meet(cluster: Cluster, suffix: str) -> tuple[WanderingClient, WanderingClient, str]:
    """Have Alice and Bob meet in an encrypted room; all know all keys."""
    for name in ("alice", "bob"):
        first = await registered(cluster.any_url, f"{name}-{suffix}")
        await first.logout()
        await first.close()
    alice, bob = [await device(cluster, f"{name}-{suffix}") for name in ("alice", "bob")]
    made = await alice.room_create(invite=[bob.user_id], initial_state=[ENCRYPTED])
    room_id: str = done(made, nio.RoomCreateResponse).room_id
    done(await bob.join(room_id), nio.JoinResponse)
    await turns_until(lambda: knows(alice, bob) and knows(bob, alice), alice, bob)
    return alice, bob, room_id


def knows(client: WanderingClient, other: WanderingClient) -> bool:
    """Tell whether a client has another's keys."""
    return other.device_id in client.device_store[other.user_id]


def test_messages_and_files_are_read_by_all_devices(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(cluster, "niotalk")
        tablet = await device(cluster, "bob-niotalk")
        at_bob, at_tablet, at_alice = heard(bob), heard(tablet), heard(alice)
        await turns_until(lambda: knows(alice, tablet), alice, tablet)

        await say(alice, room_id, text("hello Bob"))
        await turns_until(lambda: at_bob and at_tablet, bob, tablet)
        await say(tablet, room_id, text("hello Alice"))
        await turns_until(lambda: at_alice, alice)
        secret = bytes(range(256)) * 200
        uploaded, keys = await alice.upload(lambda *_: secret, encrypt=True, filesize=len(secret))
        url = done(uploaded, nio.UploadResponse).content_uri
        await say(alice, room_id, {"msgtype": "m.file", "body": "f", "file": {**keys, "url": url}})
        await turns_until(lambda: len(at_tablet) > 1, tablet)
        file = next(one for one in at_tablet if isinstance(one, nio.RoomEncryptedFile))
        loaded = done(await tablet.download(file.url), nio.DownloadResponse)

        assert [one.body for one in (at_bob[0], at_tablet[0])] == ["hello Bob"] * 2
        assert at_alice[0].body == "hello Alice"
        assert loaded.body != secret
        opened = decrypt_attachment(loaded.body, file.key["k"], file.hashes["sha256"], file.iv)
        assert opened == secret
        for client in (alice, bob, tablet):
            await client.close()

    run_scenario(scenario)


def test_two_devices_verify_each_other(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(cluster, "nioverify")
        bobs_device = alice.device_store[bob.user_id][bob.device_id]

        done(await alice.start_key_verification(bobs_device), nio.ToDeviceResponse)
        await turns_until(lambda: bob.key_verifications, bob)
        transaction = next(iter(bob.key_verifications))
        hers, his = alice.key_verifications[transaction], bob.key_verifications[transaction]
        done(await bob.accept_key_verification(transaction), nio.ToDeviceResponse)
        await turns_until(lambda: hers.established_sas and his.established_sas, alice, bob)
        emoji = [hers.get_emoji(), his.get_emoji()]
        for client in (alice, bob):
            confirmed = await client.confirm_short_auth_string(transaction)
            done(confirmed, nio.ToDeviceResponse)
        await turns_until(lambda: hers.verified and his.verified, alice, bob)

        assert emoji[0] == emoji[1]
        assert bobs_device.verified
        assert bob.device_store[alice.user_id][alice.device_id].verified
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


def test_a_new_device_reads_history_with_keys_kept_on_the_server(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(cluster, "niokept")
        at_alice = heard(alice)
        await say(bob, room_id, text("remember this"))
        await turns_until(lambda: at_alice, alice)
        # nio has no key backups of its own: its sealed export is what is kept here.
        sealed = tmp_path / "keys.txt"
        await alice.export_keys(str(sealed), "a passphrase", count=10)
        version = await backed_up(alice, room_id, sealed.read_bytes())

        laptop = await device(cluster, "alice-niokept")
        path = f"/_matrix/client/v3/room_keys/keys?version={version}"
        kept = (await asked(laptop, "GET", path))["rooms"][room_id]["sessions"]["all"]
        brought = tmp_path / "brought.txt"
        brought.write_bytes(base64.b64decode(kept["session_data"]["export"]))
        await laptop.import_keys(str(brought), "a passphrase")
        page = done(await laptop.room_messages(room_id, "", limit=20), nio.RoomMessagesResponse)
        sealed_events = [one for one in page.chunk if isinstance(one, nio.MegolmEvent)]
        read = [laptop.decrypt_event(one).body for one in sealed_events]
        read += [one.body for one in page.chunk if isinstance(one, nio.RoomMessageText)]

        assert read == ["remember this"]
        for client in (alice, bob, laptop):
            await client.close()

    run_scenario(scenario)


async def backed_up(client: WanderingClient, room_id: str, export: bytes) -> str:
    """Keep an export in a new key backup; give the backup's version."""
    wish = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"a": "b"}}
    made = await asked(client, "POST", "/_matrix/client/v3/room_keys/version", wish)
    version: str = made["version"]
    session = {
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": True,
        "session_data": {"export": base64.b64encode(export).decode()},
    }
    path = f"/_matrix/client/v3/room_keys/keys?version={version}"
    body = {"rooms": {room_id: {"sessions": {"all": session}}}}
    assert (await asked(client, "PUT", path, body))["count"] == 1
    return version


async def asked(client: WanderingClient, method: str, path: str, body: Any = None) -> Any:
    """Make a request that nio has no method for."""
    headers = {"Authorization": f"Bearer {client.access_token}"}
    session = client.client_session
    url = f"{client.homeserver}{path}"
    async with session.request(method, url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()
