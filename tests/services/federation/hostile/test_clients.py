"""Clients whose requests make this server wait for slow servers do not delay other clients."""

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from hs.apis.web.limits import DEFAULT_GATES, WorkClass
from hs.core.ids import ServerName, UserID
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    CLEO,
    FAR,
    NEAR,
    THIRD,
    join,
    membership_at,
    register,
)
from tests.support.federation import PeerNetwork, open_servers
from tests.support.web import WebClient

CLIENT = "/_matrix/client/v3"
SHARE = DEFAULT_GATES[WorkClass.OTHERS].of_user
SLOW = ServerName("slow.example")


@pytest.fixture
def unhurried_clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """A clock that does not jump while threads work for a moment."""
    autojump_clock.autojump_threshold = 0.1
    return autojump_clock


class SlowServers:
    """Servers that never respond; `waiting` are the requests to them that have not ended."""

    def __init__(self, network: PeerNetwork) -> None:
        self.network = network
        self.waiting: Counter[str] = Counter()

    def add(self, name: str) -> ServerName:
        server = ServerName(name)
        self.network.answers[server] = self._never
        return server

    async def _never(self, request: PeerRequest) -> PeerResponse:
        self.waiting[request.server] += 1
        try:
            await trio.sleep_forever()
        finally:
            self.waiting[request.server] -= 1
        raise AssertionError


async def ask(web: WebClient, token: str | None, method: str, path: str, content: Any) -> int:
    """Send a request of a client; return the status."""
    return (await web.request(method, path, json=content, token=token)).status


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", f"{CLIENT}/profile/%40x%3A{{server}}", None),
    ("GET", f"{CLIENT}/directory/room/%23x%3A{{server}}", None),
    ("GET", f"{CLIENT}/publicRooms?server={{server}}", None),
    ("POST", f"{CLIENT}/join/%23x%3A{{server}}", {}),
    ("POST", f"{CLIENT}/join/%21x%3A{{server}}?via={{server}}", {}),
    ("POST", f"{CLIENT}/knock/%23x%3A{{server}}", {}),
    ("GET", "/_matrix/client/v1/rooms/%21x%3A{server}/hierarchy?via={server}", None),
    ("GET", "/_matrix/client/v1/room_summary/%23x%3A{server}", None),
    ("GET", "/_matrix/client/v1/media/download/{server}/abc", None),
    ("GET", "/_matrix/client/v1/media/thumbnail/{server}/abc?width=9&height=9", None),
    ("POST", f"{CLIENT}/createRoom", {"invite": ["@x:{server}"]}),
    ("POST", f"{CLIENT}/keys/query", {"device_keys": {"@x:{server}": []}}),
    ("POST", f"{CLIENT}/keys/claim", {"one_time_keys": {"@x:{server}": {"D": "x"}}}),
]  # fmt: skip


def filled(value: Any, server: str) -> Any:
    """Return a request with the name of a server in it."""
    if isinstance(value, str):
        return value.replace("{server}", server)
    if isinstance(value, list):
        return [filled(each, server) for each in value]
    if isinstance(value, dict):
        return {filled(key, server): filled(value[key], server) for key in value}
    return value


async def test_requests_of_one_client_that_wait_for_servers_are_limited(
    unhurried_clock: Any,
) -> None:
    network = PeerNetwork()
    slow = SlowServers(network)
    async with open_servers(NEAR, network=network) as (near,):
        web, token = near.web(), await register(near, BEN)
        for number, (method, path, content) in enumerate(REQUESTS):
            async with trio.open_nursery() as nursery:
                for sequence in range(2 * SHARE):
                    server = slow.add(f"slow{sequence}.number{number}.example")
                    request = (method, filled(path, server), filled(content, server))
                    nursery.start_soon(ask, web, token, *request)
                await trio.sleep(1)

                assert 0 < slow.waiting.total() <= SHARE, path
                nursery.cancel_scope.cancel()


async def test_queries_of_keys_at_slow_servers_hold_no_slot(unhurried_clock: Any) -> None:
    network = PeerNetwork()
    slow = SlowServers(network)
    running = DEFAULT_GATES[WorkClass.KEYS].running
    async with open_servers(NEAR, network=network) as (near,), trio.open_nursery() as nursery:
        web, token_of_ben = near.web(), await register(near, BEN)
        users = [UserID(f"@user{number}:{NEAR}") for number in range(running + 1)]
        tokens = [await register(near, user_id) for user_id in users]
        for number, token in enumerate(tokens):
            query: Any = {"device_keys": {f"@x:{slow.add(f'slow{number}.example')}": []}}
            nursery.start_soon(ask, web, token, "POST", f"{CLIENT}/keys/query", query)
        await trio.sleep(1)
        assert slow.waiting.total() > running

        with trio.fail_after(5):
            query = {"device_keys": {BEN: []}}
            assert await ask(web, token_of_ben, "POST", f"{CLIENT}/keys/query", query) == 200
        nursery.cancel_scope.cancel()


async def test_clients_without_account_share_by_address(unhurried_clock: Any) -> None:
    network = PeerNetwork()
    slow = SlowServers(network)
    async with open_servers(NEAR, network=network) as (near,), trio.open_nursery() as nursery:
        web = near.web()
        for number in range(3 * SHARE):
            server = slow.add(f"slow{number}.example")
            path = f"{CLIENT}/directory/room/%23x%3A{server}"
            nursery.start_soon(ask, web, None, "GET", path, None)
        await trio.sleep(1)

        assert 0 < slow.waiting.total() <= SHARE
        nursery.cancel_scope.cancel()


async def test_join_through_a_slow_server_does_not_keep_others_out_of_the_room(
    unhurried_clock: Any,
) -> None:
    network = PeerNetwork()
    SlowServers(network).add(SLOW)
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                malicious = UserID(f"@user{number}:{NEAR}")
                nursery.start_soon(join, near, malicious, room_id, SLOW)
            await trio.sleep(1)

            with trio.fail_after(120):
                await join(near, BEN, room_id, FAR)

            assert await membership_at(near, room_id, BEN) == "join"
            nursery.cancel_scope.cancel()


async def test_joins_of_one_user_leave_room_to_receive_those_of_others(
    unhurried_clock: Any,
) -> None:
    """The server of the malicious user responds to make_join at once, and never to send_join."""
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, THIRD, network=network) as (near, far, third):
        answer, stuck = network.answers[THIRD], 0

        async def never_send(request: PeerRequest) -> PeerResponse:
            nonlocal stuck
            if "/send_join/" in request.uri:
                stuck += 1
                await trio.sleep_forever()
            return await answer(request)

        network.answers[THIRD] = never_send
        rooms = [await third.world.create_room(UserID(f"@m:{THIRD}")) for _ in range(20)]
        room_id = await far.world.create_room(ANN)
        async with trio.open_nursery() as nursery:
            for bad in rooms:
                nursery.start_soon(join, near, CLEO, bad, THIRD)
            await trio.sleep(1)
            assert 0 < stuck < 5

            with trio.fail_after(120):
                await join(near, BEN, room_id, FAR)
            nursery.cancel_scope.cancel()
