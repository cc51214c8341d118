"""Clients whose requests make this server wait for slow servers do not delay other clients."""

import json
from collections import Counter
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from hs.apis.web.limits import DEFAULT_GATES, WorkClass
from hs.core.ids import ServerName, UserID
from hs.lib.caching.lru_cache import collect_caches
from hs.services.devices import remote_devices
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


def keys_of(size: int) -> Any:
    """Return a server's response with a large device of the user x."""

    async def answer(request: PeerRequest) -> PeerResponse:
        user_id = f"@x:{request.server}"
        keys = {"user_id": user_id, "device_id": "D", "keys": {"ed25519:D": "k"}}
        devices = {
            f"D{number}": {**keys, "device_id": f"D{number}", "filler": "x" * 30_000}
            for number in range(size // 30_000)
        }
        body = orjson.dumps({"device_keys": {user_id: devices}})
        return PeerResponse(200, {}, body)

    return answer


async def test_keys_of_many_servers_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_devices, "MAX_ANSWER_BYTES", 1_000_000)
    network = PeerNetwork()
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        names = [f"large{number}.example" for number in range(100)]
        network.answers.update({ServerName(name): keys_of(90_000) for name in names})
        query: Any = {"device_keys": {f"@x:{name}": [] for name in names}}

        response = await near.web().post(f"{CLIENT}/keys/query", query, token=token)

    assert response.status == 200
    assert len(response.body) < 1_100_000
    assert len(response.json["device_keys"]) == 11
    assert len(response.json["failures"]) == 89


async def test_user_with_many_devices_is_found_by_a_second_query() -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        network.answers[FAR] = keys_of(4_000_000)
        query = {"device_keys": {f"@x:{FAR}": ["D7"]}}

        response = await near.web().post(f"{CLIENT}/keys/query", query, token=token)

    assert list(response.json["device_keys"][f"@x:{FAR}"]) == ["D7"]
    assert [request.max_bytes for _, request in network.sent if request.server == FAR] == [
        (1 << 20) + (1 << 15),
        16 << 20,
    ]


async def test_claimed_keys_cannot_be_larger_than_keys_are() -> None:
    network = PeerNetwork()

    async def answer(request: PeerRequest) -> PeerResponse:
        keys = {"D": {"signed_curve25519:A": {"key": "x" * 5_000_000}}}
        return PeerResponse(200, {}, orjson.dumps({"one_time_keys": {f"@x:{FAR}": keys}}))

    network.answers[FAR] = answer
    async with open_servers(NEAR, network=network) as (near,):
        token = await register(near, BEN)
        claim = {"one_time_keys": {f"@x:{FAR}": {"D": "signed_curve25519"}}}

        response = await near.web().post(f"{CLIENT}/keys/claim", claim, token=token)

    assert response.json["one_time_keys"] == {}
    assert "too large" in response.json["failures"][FAR]["message"]


async def test_large_profiles_are_cached_up_to_a_limit() -> None:
    network = PeerNetwork()

    async def answer(request: PeerRequest) -> PeerResponse:
        return PeerResponse(200, {}, orjson.dumps({"x": [0] * 50_000}))

    network.answers[FAR] = answer
    with collect_caches() as caches:
        async with open_servers(NEAR, network=network) as (near,):
            for number in range(30):
                response = await near.web().get(f"{CLIENT}/profile/%40x{number}%3A{FAR}")
                assert response.status == 200
            (profiles,) = (cache for cache in caches if cache.name == "remote_profiles")
            assert len(profiles) == 5


@pytest.mark.parametrize("levels", [200, 900])
async def test_deep_responses_of_servers_cause_no_internal_error(levels: int) -> None:
    deep: Any = 1
    for _ in range(levels):
        deep = {"a": deep}
    network = PeerNetwork()
    room_id = f"!x:{FAR}"
    room = {"room_id": room_id, "num_joined_members": 1, "world_readable": True}
    child = {"type": "m.space.child", "state_key": "!c:a", "sender": ANN, "origin_server_ts": 1}
    space = {**room, "guest_can_join": True, "join_rule": "public"}
    space["children_state"] = [{**child, "content": {"via": ["a"], "deep": deep}}]
    raw = json.dumps(
        {
            "displayname": "a", "deep": deep, "room": space, "children": [],
            "one_time_keys": {ANN: {"D": {"a": deep}}},
            "device_keys": {ANN: {"D": {"keys": {}, "deep": deep}}},
            "master_keys": {ANN: {"user_id": ANN, "keys": {"a": "b"}, "usage": [], "deep": deep}},
        }
    ).encode()  # fmt: skip

    async def answer(request: PeerRequest) -> PeerResponse:
        return PeerResponse(200, {}, raw)

    network.answers[FAR] = answer
    async with open_servers(NEAR, network=network) as (near,):
        web, token = near.web(), await register(near, BEN)
        requests: list[tuple[str, str, Any]] = [
            ("GET", f"{CLIENT}/profile/{ANN}", None),
            ("GET", f"{CLIENT}/profile/{ANN}/deep", None),
            ("GET", f"/_matrix/client/v1/rooms/{room_id}/hierarchy?via={FAR}", None),
            ("POST", f"{CLIENT}/keys/claim", {"one_time_keys": {ANN: {"D": "signed_curve25519"}}}),
            ("POST", f"{CLIENT}/keys/query", {"device_keys": {ANN: []}}),
        ]
        for request in requests:
            assert await ask(web, token, *request) in (200, 400, 403, 404, 502)


async def test_messages_to_servers_that_do_not_exist_are_limited() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        web, token = near.web(), await register(near, BEN)
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        path = f"{CLIENT}/sendToDevice/m.test"

        async def send(number: int, *servers: str) -> int:
            messages = {f"@x:{server}": {"*": {"a": 1}} for server in servers}
            content = {"messages": messages}
            return await ask(web, token, "PUT", f"{path}/{number}", content)

        invented = [f"invented{number}.example" for number in range(200)]
        assert await send(1, *invented) == 429
        assert await send(2, *invented[:100], FAR) == 200
        assert await send(3, "more.example") == 429
        assert [await send(4 + number, FAR) for number in range(3)] == [200, 200, 200]
