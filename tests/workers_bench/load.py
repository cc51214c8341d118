"""Clients that load a server: senders, members who sync, and both mixed."""

import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import attrs
import orjson
import trio

_RECEIVE_BYTES = 1 << 18
SETUP_TASKS = 8
FILTER = quote('{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}')


@attrs.define(eq=False)
class Client:
    """A user with one keep-alive connection to one process, and another one for syncing."""

    port: int
    user_id: str = ""
    token: str = ""
    since: str = ""
    syncs: int = 0
    rooms: list[str] = attrs.Factory(list)
    _streams: dict[bool, trio.SocketStream] = attrs.Factory(dict)
    _numbers: "itertools.count[int]" = attrs.Factory(itertools.count)

    async def request(
        self, method: str, path: str, body: Any = None, *, is_sync: bool = False
    ) -> Any:
        """Send a request and return the JSON of its response, which must be a success."""
        content = b"" if body is None else orjson.dumps(body)
        head = (
            f"{method} /_matrix/client/v3/{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"authorization: Bearer {self.token}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        stream = self._streams.get(is_sync)
        if stream is None:
            stream = self._streams[is_sync] = await trio.open_tcp_stream("127.0.0.1", self.port)
        await stream.send_all(head.encode() + content)
        status, answer = await _read(stream)
        assert status == 200, (method, path, answer)
        return orjson.loads(answer)

    async def register(self, name: str) -> None:
        """Create the user."""
        auth = {"type": "m.login.dummy"}
        body = {"username": name, "password": "bench 12345678", "auth": auth}
        answer = await self.request("POST", "register", body)
        self.user_id, self.token = answer["user_id"], answer["access_token"]

    async def create_room(self) -> str:
        """Create a public room."""
        answer = await self.request("POST", "createRoom", {"preset": "public_chat"})
        return str(answer["room_id"])

    async def join(self, room: str) -> None:
        """Join a room."""
        await self.request("POST", f"join/{quote(room)}", {})
        self.rooms.append(room)

    async def send(
        self, room: str, text: str = "a message of the usual length, more or less"
    ) -> None:
        """Send a message."""
        path = f"rooms/{quote(room)}/send/m.room.message/t{next(self._numbers)}"
        await self.request("PUT", path, {"msgtype": "m.text", "body": text})

    async def sync(self, timeout_ms: int) -> dict[str, Any]:
        """Sync from where the last one ended; return the joined rooms."""
        since = f"&since={self.since}" if self.since else ""
        path = f"sync?timeout={timeout_ms}&filter={FILTER}{since}"
        answer = await self.request("GET", path, is_sync=True)
        self.since = answer["next_batch"]
        self.syncs += 1
        rooms: dict[str, Any] = answer.get("rooms", {}).get("join", {})
        return rooms

    async def aclose(self) -> None:
        """Close the connections."""
        for stream in self._streams.values():
            await stream.aclose()
        self._streams.clear()


async def _read(stream: trio.SocketStream) -> tuple[int, bytes]:
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        part = await stream.receive_some(_RECEIVE_BYTES)
        assert part, "connection closed"
        data += part
    head = bytes(data[:end]).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(data) < end + 4 + length:
        part = await stream.receive_some(_RECEIVE_BYTES)
        assert part, "connection closed"
        data += part
    return int(head[9:12]), bytes(data[end + 4 :])


async def in_parallel(jobs: list[Callable[[], Awaitable[Any]]], tasks: int = SETUP_TASKS) -> None:
    """Do jobs, a few at a time."""
    remaining = iter(jobs)

    async def work() -> None:
        for job in remaining:
            await job()

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)


async def make_clients(ports: list[int], count: int, prefix: str) -> list[Client]:
    """Register users, who use the ports in turn."""
    clients = [Client(ports[number % len(ports)]) for number in range(count)]
    await in_parallel(
        [partial(client.register, f"{prefix}{number}") for number, client in enumerate(clients)]
    )
    return clients


async def make_rooms(creators: list[Client], count: int) -> list[str]:
    """Create rooms, whose creators take turns."""
    rooms: list[str] = []
    for number in range(count):
        creator = creators[number % len(creators)]
        rooms.append(await creator.create_room())
        creator.rooms.append(rooms[-1])
    return rooms


async def send_for(clients: list[Client], seconds: float, rate: float = 0) -> list[float]:
    """Let every client send one message after the other to its rooms.

    With `rate`, all together send so many a second if they can.
    Returns: how long each message took, in seconds.
    """
    durations: list[float] = []

    async def work(client: Client, number: int) -> None:
        begin = trio.current_time() + (number / rate if rate else 0)
        for round_, room in enumerate(itertools.cycle(client.rooms)):
            if rate:
                await trio.sleep_until(begin + round_ * len(clients) / rate)
            began = trio.current_time()
            if began > deadline:
                return
            await client.send(room)
            durations.append(trio.current_time() - began)

    deadline = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(work, client, number)
    return durations


async def fan_out_for(
    senders: list[Client],
    members: list[Client],
    seconds: float,
    rate: float,
    settle: Callable[[], None],
) -> int:
    """Let senders send while members sync; return the number of messages that were sent."""
    ready = 0

    async def follow(member: Client) -> None:
        nonlocal ready
        await member.sync(0)
        ready += 1
        while True:
            await member.sync(10_000)

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(follow, member)
            await trio.sleep(0.02)
        while ready < len(members):  # noqa: ASYNC110 - polled only before the measurement
            await trio.sleep(0.1)
        await trio.sleep(2.0)
        settle()
        for member in members:
            member.syncs = 0
        sent = len(await send_for(senders, seconds, rate))
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        for member in members:
            await member.aclose()
    return sent


async def mixed_for(clients: list[Client], seconds: float) -> int:
    """Let clients do what users do; return the number of operations, waiting syncs among them."""
    done = 0
    last_events: dict[str, str] = {}

    async def act(client: Client, rng: random.Random) -> None:
        room, choice = rng.choice(client.rooms), rng.random()
        path = f"rooms/{quote(room)}"
        if choice < 0.60:
            for room_id, joined in (await client.sync(2000)).items():
                if events := joined.get("timeline", {}).get("events"):
                    last_events[room_id] = events[-1]["event_id"]
        elif choice < 0.85:
            await client.send(room)
        elif choice < 0.90:
            body = {"typing": True, "timeout": 4000}
            await client.request("PUT", f"{path}/typing/{quote(client.user_id)}", body)
        elif choice < 0.95 and room in last_events:
            await client.request("POST", f"{path}/receipt/m.read/{quote(last_events[room])}", {})
        elif choice < 0.98:
            await client.request("GET", f"{path}/messages?dir=b&limit=30")
        else:
            await client.request("GET", f"{path}/members")

    async def work(client: Client, rng: random.Random) -> None:
        nonlocal done
        while trio.current_time() < deadline:
            await act(client, rng)
            done += 1

    deadline = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(work, client, random.Random(100 + number))
    return done
