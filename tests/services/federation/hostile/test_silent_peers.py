"""A server that never responds, on every request that this server sends because of a client."""

from typing import Any

import pytest
import trio

from hs.core.ids import ServerName
from hs.services.federation.requests.membership import JOIN_TIMEOUT_S, MAX_ROOM_BYTES
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation.hostile.test_answers import EXCHANGES
from tests.services.federation.joining.rooms_between import ANN, BEN, FAR, NEAR, register
from tests.support.federation import PeerNetwork, open_servers

CLIENT = "/_matrix/client/v3"
LONGEST_S = 300.0
MORE: list[tuple[str, str, Any]] = [
    ("GET", "/_matrix/client/v1/media/download/far.example/abc", None),
    ("GET", "/_matrix/client/v1/media/thumbnail/far.example/abc?width=9&height=9", None),
    ("POST", f"{CLIENT}/createRoom", {"invite": [ANN]}),
]
CASES = [*((method, path, content) for method, path, content, *_ in EXCHANGES), *MORE]


@pytest.mark.parametrize("number", range(len(CASES)))
async def test_request_of_a_client_ends_in_time(
    number: int, server_log: ServerLog, autojump_clock: Any
) -> None:
    method, path, content = CASES[number]
    network = PeerNetwork()

    async def never(request: PeerRequest) -> PeerResponse:
        await trio.sleep_forever()
        raise AssertionError

    network.answers[FAR] = never
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        server_log.take()
        start = trio.current_time()

        response = await near.web().request(method, path, json=content, token=token)

        assert trio.current_time() - start <= LONGEST_S
        assert response.status in (200, 403, 404, 502, 504)
        assert len(server_log.lines()) <= 4
        requests = [request for _, request in network.sent if request.server == FAR]
        assert 0 < len(requests) <= 4


async def test_every_request_is_bounded() -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        for method, path, content in CASES:
            await near.web().request(method, path, json=content, token=token)

    requests = [request for _, request in network.sent if request.server == ServerName(FAR)]
    assert len(requests) >= len(EXCHANGES)
    for request in requests:
        assert request.timeout_s <= max(JOIN_TIMEOUT_S, 330), request.uri
        assert request.max_bytes <= MAX_ROOM_BYTES, request.uri
