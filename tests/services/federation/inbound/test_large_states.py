"""Large responses of other servers take memory for what is needed only."""

import pytest

from hs.core.errors import RemoteFault
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID
from hs.core.versions import ROOM_VERSIONS
from hs.services.federation.requests.events import get_state, get_state_ids
from hs.services.federation_client import client
from tests.services.federation.inbound.inbound_scene import ONE, PREFIX, Inbound, joined_history
from tests.support.peers import ADMIN

ROOM = RoomID("!room:one.example")
RULES = ROOM_VERSIONS["11"]


async def fetch(inbound: Inbound, wanted: set[EventID]) -> dict[EventID, Event]:
    """Fetch a state, of which some events are wanted."""
    return await get_state(
        inbound.server.client,
        ONE,
        ROOM,
        EventID("$x"),
        wanted=wanted,
        parse=lambda pdu: parse_pdu(pdu, RULES),
    )


async def test_only_wanted_events_of_a_state_are_kept(inbound: Inbound) -> None:
    history = joined_history()
    names = [history.add(ADMIN, "x.y", {"n": n}, str(n)) for n in range(50)]
    others = [{"not": "a PDU"}, 1, *(name.pdu for name in names[25:])]
    state = {"pdus": [name.pdu for name in names[:25]], "auth_chain": others}
    inbound.peers[ONE].responses[f"GET {PREFIX}/state/"] = (200, state)
    wanted = {names[3].event_id, names[40].event_id, EventID("$elsewhere")}

    assert (await fetch(inbound, wanted)).keys() == {names[3].event_id, names[40].event_id}


@pytest.mark.parametrize("value", [b"0", b"{}", b"[]", b'""'])
async def test_response_of_many_tiny_values_is_not_parsed(
    inbound: Inbound, monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    monkeypatch.setattr(client, "MAX_VALUES", 100_000)
    values = b",".join([value] * 200_000)
    inbound.peers[ONE].responses.update(
        {
            f"GET {PREFIX}/state/": (200, b'{"auth_chain":[],"pdus":[%b]}' % values),
            f"GET {PREFIX}/state_ids/": (200, b'{"auth_chain_ids":[],"pdu_ids":[%b]}' % values),
        }
    )

    with pytest.raises(RemoteFault, match="more than 100000 values"):
        await fetch(inbound, set())
    with pytest.raises(RemoteFault, match="more than 100000 values"):
        await get_state_ids(inbound.server.client, ONE, ROOM, EventID("$x"))


async def test_malformed_state_is_a_fault_of_the_server(inbound: Inbound) -> None:
    for body in (b'{"pdus":{}}', b"[]", b'{"pdus":[', b"nonsense"):
        inbound.peers[ONE].responses[f"GET {PREFIX}/state/"] = (200, body)
        with pytest.raises(RemoteFault, match="malformed"):
            await fetch(inbound, set())
