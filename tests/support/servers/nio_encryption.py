"""matrix-nio devices with encryption: logging in, syncing with key requests, and joining rooms."""

import asyncio
from collections.abc import Callable
from typing import Any

import nio

from tests.support.servers.nio_client import PASSWORD, AnyProcessClient, done, registered

ENCRYPTED = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


async def log_in_device(any_url: Callable[[], str], name: str) -> AnyProcessClient:
    """Log in a device with encryption and upload its keys."""
    client = AnyProcessClient(
        any_url, name, encryption_enabled=True, store=nio.store.SqliteMemoryStore
    )
    done(await client.login(PASSWORD, device_name="a device"), nio.LoginResponse)
    await client.keys_upload()
    await sync_and_handle_keys(client, timeout_ms=0)
    return client


async def sync_and_handle_keys(
    client: AnyProcessClient, timeout_ms: int = 2000
) -> nio.SyncResponse:
    """Sync once, then send, upload, query and claim what nio asks for."""
    response = done(await client.sync(timeout=timeout_ms, full_state=False), nio.SyncResponse)
    await client.send_to_device_messages()
    if client.should_upload_keys:
        await client.keys_upload()
    if client.should_query_keys:
        await client.keys_query()
    if client.should_claim_keys:
        await client.keys_claim(client.get_users_for_key_claiming())
    return response


async def sync_until(condition: Callable[[], Any], *clients: AnyProcessClient) -> None:
    """Let clients sync until a condition holds."""
    while not condition():
        await asyncio.gather(*(sync_and_handle_keys(client) for client in clients))


def collect_decrypted(client: AnyProcessClient) -> list[Any]:
    """Return a list that collects the messages of other users which the client decrypts."""
    events: list[Any] = []

    def collect(room: nio.MatrixRoom, event: nio.Event) -> None:
        if event.decrypted and event.sender != client.user_id:
            events.append(event)

    client.add_event_callback(collect, (nio.RoomMessageText, nio.RoomEncryptedFile))
    return events


async def say(client: AnyProcessClient, room_id: str, content: dict[str, Any]) -> None:
    """Send a message to all devices, whether they are verified or not."""
    sent = await client.room_send(
        room_id, "m.room.message", content, ignore_unverified_devices=True
    )
    done(sent, nio.RoomSendResponse)


def text(body: str) -> dict[str, Any]:
    """Return the content of a text message."""
    return {"msgtype": "m.text", "body": body}


async def join_encrypted_room(
    alices_url: Callable[[], str], bobs_url: Callable[[], str], suffix: str
) -> tuple[AnyProcessClient, AnyProcessClient, str]:
    """Join Alice and Bob to an encrypted room; wait until they have each other's device keys."""
    urls = {"alice": alices_url, "bob": bobs_url}
    for name, any_url in urls.items():
        registering_client = await registered(any_url, f"{name}-{suffix}")
        await registering_client.logout()
        await registering_client.close()
    alice, bob = [
        await log_in_device(any_url, f"{name}-{suffix}") for name, any_url in urls.items()
    ]
    created = await alice.room_create(invite=[bob.user_id], initial_state=[ENCRYPTED])
    room_id: str = done(created, nio.RoomCreateResponse).room_id
    await sync_until(lambda: room_id in bob.invited_rooms, bob)
    done(await bob.join(room_id), nio.JoinResponse)
    await sync_until(
        lambda: has_device_keys(alice, bob) and has_device_keys(bob, alice), alice, bob
    )
    return alice, bob, room_id


async def verify_by_emoji(alice: AnyProcessClient, bob: AnyProcessClient) -> list[Any]:
    """Have two devices verify each other; return the emoji that Alice and that Bob has seen."""
    bobs_device = alice.device_store[bob.user_id][bob.device_id]
    done(await alice.start_key_verification(bobs_device), nio.ToDeviceResponse)
    await sync_until(lambda: bob.key_verifications, bob)
    txn_id = next(iter(bob.key_verifications))
    alices_sas, bobs_sas = alice.key_verifications[txn_id], bob.key_verifications[txn_id]
    done(await bob.accept_key_verification(txn_id), nio.ToDeviceResponse)
    await sync_until(lambda: alices_sas.established_sas and bobs_sas.established_sas, alice, bob)
    emoji = [alices_sas.get_emoji(), bobs_sas.get_emoji()]
    for client in (alice, bob):
        confirmed = await client.confirm_short_auth_string(txn_id)
        done(confirmed, nio.ToDeviceResponse)
    await sync_until(lambda: alices_sas.verified and bobs_sas.verified, alice, bob)
    return emoji


def has_device_keys(client: AnyProcessClient, other: AnyProcessClient) -> bool:
    """Return whether a client has the device keys of another client."""
    return other.device_id in client.device_store[other.user_id]
