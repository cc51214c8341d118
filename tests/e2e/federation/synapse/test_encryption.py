"""matrix-nio devices of both servers in one encrypted room."""

import pytest

from tests.support.servers.mixed_federation import MixedFederation
from tests.support.servers.nio_client import run_scenario
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

pytest.importorskip("vodozemac", reason="matrix-nio encrypts with vodozemac: matrix-nio[e2e]")

pytestmark = [pytest.mark.process, pytest.mark.synapse]


@pytest.mark.parametrize("near", ["hs", "synapse"])
def test_devices_of_both_servers_decrypt_messages(mixed: MixedFederation, near: str) -> None:
    near_url, far_url = mixed.hs.any_url, mixed.synapse.any_url
    if near == "synapse":
        near_url, far_url = far_url, near_url

    async def scenario() -> None:
        alice, bob, room_id = await join_encrypted_room(near_url, far_url, f"talk-{near}")
        tablet = await log_in_device(far_url, f"bob-talk-{near}")
        alice_received, bob_received, tablet_received = [
            collect_decrypted(client) for client in (alice, bob, tablet)
        ]
        await sync_until(lambda: has_device_keys(alice, tablet), alice, tablet)

        await say(alice, room_id, text("hello Bob"))
        await sync_until(lambda: bob_received and tablet_received, bob, tablet)
        await say(tablet, room_id, text("hello Alice"))
        await sync_until(lambda: alice_received, alice)
        await say(bob, room_id, text("and hello again"))
        await sync_until(lambda: len(alice_received) == 2, alice)

        assert [event.body for event in (bob_received[0], tablet_received[0])] == ["hello Bob"] * 2
        assert [event.body for event in alice_received] == ["hello Alice", "and hello again"]
        for client in (alice, bob, tablet):
            await client.close()

    run_scenario(scenario)


@pytest.mark.parametrize("near", ["hs", "synapse"])
def test_devices_of_both_servers_verify_each_other(mixed: MixedFederation, near: str) -> None:
    near_url, far_url = mixed.hs.any_url, mixed.synapse.any_url
    if near == "synapse":
        near_url, far_url = far_url, near_url

    async def scenario() -> None:
        alice, bob, _ = await join_encrypted_room(near_url, far_url, f"verify-{near}")

        emoji = await verify_by_emoji(alice, bob)

        assert emoji[0] == emoji[1]
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)
