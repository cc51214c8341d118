"""Servers that flood this one, or that never respond, slow themselves and not others."""

from typing import Any

import orjson
import pytest
import trio

from hs.apis.web.limits import DEFAULT_GATES, Admission, GateSize, WorkClass
from hs.apis.web.origin_limits import OriginLimits
from hs.core.ids import ServerName, UserID, server_of
from hs.services.federation.history import state_fetcher
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.services.rooms.store.stored_event import EventStatus
from hs.settings.sections.rate_limits import FederationRates
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import (
    ONE,
    PREFIX,
    QUEUES,
    THREE,
    TWO,
    Inbound,
    open_inbound,
)
from tests.support.federation import ScriptedPeer
from tests.support.peers import ADMIN, BERT, CORA

HI = ("m.room.message", {"body": "hi"})


def test_work_that_waits_for_servers_has_a_gate_of_its_own() -> None:
    admission = Admission(origins=OriginLimits(FederationRates()))

    # Twenty servers with as many requests as each may have at a time leave slots to others.
    assert DEFAULT_GATES[WorkClass.PEERS].running > 20 * 3
    assert admission.gate(WorkClass.PEERS) is not admission.gate(WorkClass.FEDERATION)


async def test_event_of_a_silent_server_delays_no_other_transaction(
    timed: Inbound, autojump_clock: Any
) -> None:
    inbound = timed
    network = inbound.server.network
    asked: list[str] = []

    async def never(request: PeerRequest) -> PeerResponse:
        asked.append(request.server)
        await trio.sleep_forever()
        raise AssertionError

    event = inbound.history.draft(CORA, *HI)
    slow = []
    for number in range(7):  # so few are parsed without a thread, which takes no virtual time
        server = ServerName(f"silent{number}.example")
        network.answers[server] = never
        pdu = {**event.pdu, "sender": f"@x:{server}"}
        pdu["signatures"] = {server: {"ed25519:key": "x" * 86}}
        slow.append(pdu)
    good = inbound.history.add(BERT, *HI)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, inbound, slow)
        await inbound.wait_until(lambda: _has_any(asked))
        with trio.fail_after(1):
            assert await inbound.send(good, origin=TWO) == {good.event_id: {}}
    assert await inbound.status(good) is EventStatus.ACCEPTED


async def test_events_whose_keys_arrive_slowly_leave_room_for_known_servers(
    inline_database: Database, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    monkeypatch.setitem(DEFAULT_GATES, WorkClass.PEERS, GateSize(running=2, waiting=5))
    monkeypatch.setitem(DEFAULT_GATES, WorkClass.PEER_KEYS, GateSize(running=4, waiting=5))
    async with open_inbound(inline_database) as inbound:
        late = []
        for number in range(8):
            sender = UserID(f"@x:late{number}.example")
            peer = ScriptedPeer(server_of(sender), inbound.server.network)
            slow(peer, "/key/", 9)
            late.append(inbound.history.draft(sender, *HI))
        good = inbound.history.add(BERT, *HI)

        async with trio.open_nursery() as nursery:
            for event in late:
                nursery.start_soon(_send, inbound, [event])
            await trio.sleep(5)
            with trio.fail_after(1):
                assert await inbound.send(good, origin=TWO) == {good.event_id: {}}

        assert await inbound.status(good) is EventStatus.ACCEPTED
        for event in late:
            # Its signature was verified, but the sender is not in the room.
            assert await inbound.status(event) is EventStatus.REJECTED


async def _has_any(asked: list[str]) -> bool:
    return bool(asked)


async def _send(inbound: Inbound, pdus: list[Any]) -> None:
    await inbound.send(*pdus, origin=THREE)


async def test_states_that_arrive_slowly_delay_others_without_failing_them(
    timed: Inbound, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    inbound = timed
    monkeypatch.setattr(state_fetcher, "MAX_SINGLE_EVENTS", 3)
    history = inbound.history
    for number in range(10):
        history.add(ADMIN, "x.entry", {"n": number}, str(number))
    hidden = [history.add(CORA, *HI) for _ in range(250)]
    last = hidden[-1]
    inbound.serve_history(TWO)
    for server in (ONE, THREE):
        inbound.serve_history(server)
        slow(inbound.peers[server], "/state/", 170)
    fetcher_waits = history.draft(CORA, *HI, after=[hidden[-2].event_id])
    history.keep(fetcher_waits)

    async with inbound.server.process.duties(QUEUES):
        await inbound.send(fetcher_waits, origin=THREE)
        await trio.sleep(2)
        await inbound.send(last, origin=TWO)
        await inbound.wait_until(lambda: _is_stored(inbound, last), 400)


def slow(peer: ScriptedPeer, part: str, delay_s: float) -> None:
    """Let a server answer some requests late."""
    answer = peer.answer

    async def late(request: PeerRequest) -> PeerResponse:
        if part in request.uri:
            await trio.sleep(min(delay_s, request.timeout_s - 1))
        return await answer(request)

    peer.network.answers[peer.name] = late


async def _is_stored(inbound: Inbound, event: Any) -> bool:
    return await inbound.status(event) is EventStatus.ACCEPTED


async def test_flood_of_a_server_leaves_the_queues_of_others(inbound: Inbound) -> None:
    history = inbound.history
    ends = history.ends[:]
    missing = history.add(CORA, *HI)
    flood = [history.draft(CORA, "x", {"n": n}, after=[missing.event_id]) for n in range(100)]
    good = history.add(BERT, *HI, after=ends)

    for start in (0, 50):
        await inbound.send(*flood[start : start + 50], origin=THREE)
    assert await inbound.waiting() == 100

    assert await inbound.send(good, origin=TWO) == {good.event_id: {}}
    assert await inbound.status(good) is EventStatus.ACCEPTED


async def test_signature_of_a_request_counts_before_its_content(inbound: Inbound) -> None:
    many = b'{"pdus":[' + b"[]," * 3_000_000 + b"[]]}"
    header = {"authorization": f'X-Matrix origin="{ONE}",key="ed25519:key",sig="x"'}

    response = await inbound.server.web().request(
        "PUT", f"{PREFIX}/send/1", body=many, headers=header
    )

    assert response.status == 413
    assert orjson.loads(response.body)["errcode"] == "M_TOO_LARGE"
