"""matrix-nio clients with encryption: rooms, files, device verification and key backup."""

import base64
from pathlib import Path
from typing import Any

import nio
import pytest
from nio.crypto.attachments import decrypt_attachment

from tests.support.servers.nio_client import AnyProcessClient, done, run_scenario
from tests.support.servers.nio_encryption import (
    collect_decrypted,
    has_device_keys,
    join_encrypted_room,
    log_in_device,
    say,
    sync_until,
    text,
    verify_by_emoji,
)
from tests.support.servers.processes import Cluster

pytest.importorskip("vodozemac", reason="matrix-nio encrypts with vodozemac: matrix-nio[e2e]")

pytestmark = pytest.mark.process


def test_all_devices_decrypt_messages_and_files(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await join_encrypted_room(cluster.any_url, cluster.any_url, "niotalk")
        tablet = await log_in_device(cluster.any_url, "bob-niotalk")
        bob_received, tablet_received = collect_decrypted(bob), collect_decrypted(tablet)
        alice_received = collect_decrypted(alice)
        await sync_until(lambda: has_device_keys(alice, tablet), alice, tablet)

        await say(alice, room_id, text("hello Bob"))
        await sync_until(lambda: bob_received and tablet_received, bob, tablet)
        await say(tablet, room_id, text("hello Alice"))
        await sync_until(lambda: alice_received, alice)
        content = bytes(range(256)) * 200
        uploaded, keys = await alice.upload(lambda *_: content, encrypt=True, filesize=len(content))
        url = done(uploaded, nio.UploadResponse).content_uri
        await say(alice, room_id, {"msgtype": "m.file", "body": "f", "file": {**keys, "url": url}})
        await sync_until(lambda: len(tablet_received) > 1, tablet)
        file = next(e for e in tablet_received if isinstance(e, nio.RoomEncryptedFile))
        downloaded = done(await tablet.download(file.url), nio.DownloadResponse)

        assert [event.body for event in (bob_received[0], tablet_received[0])] == ["hello Bob"] * 2
        assert alice_received[0].body == "hello Alice"
        assert downloaded.body != content
        decrypted = decrypt_attachment(
            downloaded.body, file.key["k"], file.hashes["sha256"], file.iv
        )
        assert decrypted == content
        for client in (alice, bob, tablet):
            await client.close()

    run_scenario(scenario)


def test_devices_verify_each_other_by_emoji(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice, bob, _ = await join_encrypted_room(cluster.any_url, cluster.any_url, "nioverify")
        bobs_device = alice.device_store[bob.user_id][bob.device_id]

        emoji = await verify_by_emoji(alice, bob)

        assert emoji[0] == emoji[1]
        assert bobs_device.verified
        assert bob.device_store[alice.user_id][alice.device_id].verified
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


def test_new_device_decrypts_history_with_keys_from_backup(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await join_encrypted_room(cluster.any_url, cluster.any_url, "niokept")
        alice_received = collect_decrypted(alice)
        await say(bob, room_id, text("remember this"))
        await sync_until(lambda: alice_received, alice)
        # nio does not implement key backup, so its encrypted key export is stored in one.
        exported = tmp_path / "keys.txt"
        await alice.export_keys(str(exported), "a passphrase", count=10)
        version = await store_backup(alice, room_id, exported.read_bytes())

        laptop = await log_in_device(cluster.any_url, "alice-niokept")
        path = f"/_matrix/client/v3/room_keys/keys?version={version}"
        backup = await send_request(laptop, "GET", path)
        backed_up_session = backup["rooms"][room_id]["sessions"]["all"]
        downloaded = tmp_path / "downloaded.txt"
        downloaded.write_bytes(base64.b64decode(backed_up_session["session_data"]["export"]))
        await laptop.import_keys(str(downloaded), "a passphrase")
        page = done(await laptop.room_messages(room_id, "", limit=20), nio.RoomMessagesResponse)
        encrypted_events = [event for event in page.chunk if isinstance(event, nio.MegolmEvent)]
        texts = [laptop.decrypt_event(event).body for event in encrypted_events]
        texts += [event.body for event in page.chunk if isinstance(event, nio.RoomMessageText)]

        assert texts == ["remember this"]
        for client in (alice, bob, laptop):
            await client.close()

    run_scenario(scenario)


async def store_backup(client: AnyProcessClient, room_id: str, export: bytes) -> str:
    """Store exported keys in a new key backup; return its version."""
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"a": "b"}}
    created = await send_request(client, "POST", "/_matrix/client/v3/room_keys/version", backup)
    version: str = created["version"]
    session = {
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": True,
        "session_data": {"export": base64.b64encode(export).decode()},
    }
    path = f"/_matrix/client/v3/room_keys/keys?version={version}"
    body = {"rooms": {room_id: {"sessions": {"all": session}}}}
    assert (await send_request(client, "PUT", path, body))["count"] == 1
    return version


async def send_request(client: AnyProcessClient, method: str, path: str, body: Any = None) -> Any:
    """Send a request that nio has no method for; return the JSON of the response."""
    headers = {"Authorization": f"Bearer {client.access_token}"}
    session = client.client_session
    url = f"{client.homeserver}{path}"
    async with session.request(method, url, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()
