"""Destinations that fail: their queue is sent again, or they catch up when they answer again."""

import attrs
import trio
import trio.testing

from hs.core.ids import EventID, ServerName, UserID
from hs.lib.clock import FixedClock
from hs.services.federation.outbound.delivery import KEEP_S
from hs.services.federation.outbound.destination import MAX_QUEUED_PDUS, Destination
from hs.services.federation.outbound.outgoing import OutgoingPdu
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.settings.sections.federation import PeerRequestSettings
from hs.storage.database import Database
from hs.storage.federation import outbound as storage
from hs.storage.federation.outbound import BehindRecord
from tests.services.federation.sending import (
    JOIN,
    ReceivingPeer,
    announce_heard,
    have_pdus,
    receive,
    sending,
    shared_room,
    wait_until,
)
from tests.support.composition import SETTINGS
from tests.support.federation import FederatedServer, PeerNetwork, open_server, open_servers
from tests.support.rooms import message
from tests.support.sql.databases import fresh_inline

NEAR, FAR, OTHER = (ServerName(f"{name}.example") for name in ("near", "far", "other"))
ANN = UserID("@ann:near.example")


async def list_behind(server: FederatedServer) -> list[BehindRecord]:
    """Return the stored destinations that are behind."""
    return await server.process.base.database.read(storage.list_behind)


async def wait_until_behind(server: FederatedServer, count: int = 1) -> None:
    """Wait until so many destinations are behind."""
    with trio.fail_after(10 * KEEP_S):
        while len(await list_behind(server)) < count:  # noqa: ASYNC110  # a bounded wait
            await trio.sleep(1)


async def test_short_failure_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            far.status = 502
            for number in range(3):
                await near.world.send(room_id, ANN, str(number))
            await trio.sleep(KEEP_S / 2)
            far.status = 200
            await wait_until(lambda: len(far.pdus()) == 3)

        assert far.bodies() == ["0", "1", "2"]
        assert await list_behind(near) == []


async def test_retry_has_the_same_transaction_id(autojump_clock: trio.testing.MockClock) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            far.status = 500
            await near.world.send(room_id, ANN, "first")
            await trio.sleep(0.1)
            await near.world.send(room_id, ANN, "second")
            far.status = 200
            await wait_until(lambda: len(far.pdus()) == 2)

    sent = [uri for uri in near.network.uris(FAR) if "/send/" in uri]
    assert len(sent) == 3
    assert sent[0] == sent[1] != sent[2]
    assert [len(transaction["pdus"]) for transaction in far.transactions] == [1, 1]


async def test_content_that_is_rejected_is_not_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        far.responses["PUT /_matrix/federation/v1/send/"] = (400, {"errcode": "M_BAD_JSON"})
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            await near.world.send(room_id, ANN, "bad")
            await wait_until(lambda: [uri for uri in near.network.uris(FAR) if "/send/" in uri])
            await trio.sleep(1)
            far.responses["PUT /_matrix/federation/v1/send/"] = far._accept
            await near.world.send(room_id, ANN, "good")
            await wait_until(far.bodies)

    assert far.bodies() == ["good"]


async def test_server_that_was_away_gets_the_latest_event_of_each_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far, other = ReceivingPeer(FAR, near.network), ReceivingPeer(OTHER, near.network)
        rooms = [(await shared_room(near, far, other))[0] for _ in range(60)]
        near.network.down.add(FAR)
        async with sending(near):
            for number in range(2):
                for room_id in rooms:
                    await near.world.send(room_id, ANN, f"{number} {room_id}")
            await wait_until_behind(near)
            near.network.down.clear()
            await announce_heard(near, FAR)
            await wait_until(lambda: len(far.pdus()) == 60)
            await near.world.send(rooms[0], ANN, "now")
            await wait_until(lambda: far.bodies()[-1:] == ["now"])
            await wait_until(lambda: len(other.pdus()) == 121)
            with trio.fail_after(60):
                while await list_behind(near):  # noqa: ASYNC110  # a bounded wait
                    await trio.sleep(1)

    assert far.bodies() == [*(f"1 {room_id}" for room_id in rooms), "now"]
    assert [len(transaction["pdus"]) for transaction in far.transactions] == [50, 10, 1]


async def test_server_that_was_away_learns_of_its_removal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        near.network.down.add(FAR)
        async with sending(near):
            await near.world.send(room_id, ANN, "first")
            await wait_until_behind(near)
            await near.world.set_membership(room_id, ANN, far.user, "ban")
            await near.world.send(room_id, ANN, "not for them")
            near.network.down.clear()
            await announce_heard(near, FAR)
            await wait_until(far.pdus)

    (ban,) = far.pdus()
    assert ban["content"] == {"membership": "ban"}


async def test_restart_continues_with_servers_that_are_behind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = PeerNetwork()
    async with fresh_inline() as database:
        await check_restart(network, database)


async def check_restart(network: PeerNetwork, database: Database) -> None:
    """Restart a server while another one is behind."""
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, network)
        room_id, _ = await shared_room(near, far)
        network.down.add(FAR)
        async with sending(near):
            await near.world.send(room_id, ANN, "missed")
            await wait_until_behind(near)
    network.down.clear()
    async with open_server(NEAR, network, database) as near, sending(near):
        await wait_until(far.pdus)

    assert far.bodies() == ["missed"]


async def test_long_queue_of_a_slow_server_is_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far, other = ReceivingPeer(FAR, near.network), ReceivingPeer(OTHER, near.network)
        room_id, _ = await shared_room(near, far, other)
        answer, is_slow = far.answer, trio.Event()

        async def answer_late(request: PeerRequest) -> PeerResponse:
            await is_slow.wait()
            return await answer(request)

        near.network.answers[FAR] = answer_late
        async with sending(near):
            for number in range(0, MAX_QUEUED_PDUS + 50, 50):
                drafts = [message(ANN, str(number + at)) for at in range(50)]
                await near.world.append(room_id, *drafts)
                await wait_until(have_pdus(number + 50, other))
            await wait_until_behind(near)
            is_slow.set()
            await wait_until(lambda: far.bodies()[-1:] == other.bodies()[-1:])

    assert other.bodies() == [str(number) for number in range(len(other.bodies()))]
    assert len(far.pdus()) <= 51


async def test_server_that_was_away_for_minutes_is_sent_events_within_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = attrs.evolve(SETTINGS, peer_requests=PeerRequestSettings())
    async with open_servers(NEAR, settings=settings) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        for away_s in (2.0, 20.0, 70.0, 200.0):
            far.transactions.clear()
            near.network.down.add(FAR)
            async with sending(near):
                await near.world.send(room_id, ANN, f"during {away_s}")
                await trio.sleep(away_s)
                near.network.down.clear()
                await wait_until(far.bodies, min(60.0, away_s))

            assert far.bodies() == [f"during {away_s}"]
            assert near.process.services.core.federation.backoff.count() == 0


async def test_restart_of_the_sender_goes_on_with_the_intervals(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock, intervals = FixedClock(), PeerRequestSettings(max_long_retries=7)
    settings = attrs.evolve(SETTINGS, peer_requests=intervals)
    async with open_servers(NEAR, settings=settings, clock=clock) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        near.network.down.add(FAR)
        async with sending(near):
            await near.world.send(room_id, ANN, "late")
            for _ in range(200):  # the time of all early attempts
                await trio.sleep(1)
                clock.advance(1000)
        tried = len(near.network.uris(FAR))
        async with sending(near):
            await trio.sleep(60)

    assert len(near.network.uris(FAR)) - tried == 1


async def test_server_that_is_behind_is_tried_at_the_configured_intervals(
    autojump_clock: trio.testing.MockClock,
) -> None:
    intervals = PeerRequestSettings(
        max_long_retries=6,
        destination_min_retry_interval=1_000_000,
        destination_retry_multiplier=2,
        destination_max_retry_interval=10_000_000,
    )
    settings = attrs.evolve(SETTINGS, peer_requests=intervals)
    async with open_servers(NEAR, settings=settings) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        near.network.down.add(FAR)
        async with sending(near):
            await near.world.send(room_id, ANN, "late")
            await wait_until_behind(near)
            tried = len(near.network.uris(FAR))
            await trio.sleep(790)
            early = len(near.network.uris(FAR)) - tried
            await trio.sleep(3000)
            later = len(near.network.uris(FAR)) - tried
            near.network.down.clear()
            await trio.sleep(3300)
            await wait_until(far.bodies)

    assert (early, later) == (0, 2)
    assert far.bodies() == ["late"]


async def test_server_that_limits_requests_gets_nothing_for_as_long_as_it_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        limited = (429, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 50_000})
        far.responses["PUT /_matrix/federation/v1/send/"] = limited
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            await near.world.send(room_id, ANN, "late")
            await trio.sleep(49)
            tried = len([uri for uri in near.network.uris(FAR) if "/send/" in uri])
            far.responses["PUT /_matrix/federation/v1/send/"] = far._accept
            await wait_until(far.bodies)

    assert tried == 1
    assert far.bodies() == ["late"]


async def test_relayed_event_that_was_an_outlier_is_caught_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far, other = ReceivingPeer(FAR, near.network), ReceivingPeer(OTHER, near.network)
        room_id, history = await shared_room(near, far)
        near.network.down.add(FAR)
        async with sending(near):
            await near.world.send(room_id, ANN, "first")
            await wait_until_behind(near)
            joined = history.add(other.user, "m.room.member", JOIN, other.user)
            receiver = near.process.services.core.rooms.receiver
            await receiver.receive(room_id, [], [joined.canonical], {})
            await receive(near, joined, relay=True)
            await trio.sleep(10 * KEEP_S)  # positions are stored meanwhile
            near.network.down.clear()
            await announce_heard(near, FAR)
            await wait_until(far.pdus)

    assert [pdu.get("state_key") for pdu in far.pdus()] == [other.user]


def test_late_event_of_another_writer_is_not_passed_while_catching_up() -> None:
    destination = Destination(FAR)
    behind = destination.fall_behind(now_ms=0, events_after=100, devices_after=0)
    behind.is_stored = behind.is_catching_up = True

    destination.add_pdu(OutgoingPdu(90, EventID("$late"), b"{}"))
    destination.add_pdu(OutgoingPdu(110, EventID("$new"), b"{}"))

    assert destination.first_event() == 90
    destination.forget_caught_up([EventID("$late")], 0)
    assert destination.first_event() is None
