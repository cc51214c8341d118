"""Fuzzing: mutated requests on many connections do not harm the server."""

import random

import pytest
import trio

from hs.apis.web.http1_limits import HttpLimits
from tests.apis.web.conversation import MemoryServer, memory_server
from tests.apis.web.test_http1_refusals import AMBIGUOUS, BAD_CHUNKS, SECRET

CHUNKED = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
SEEDS = [
    SECRET,
    CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    b"POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"PUT /echo/%2f HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /parts HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /_matrix/client/v3/x?y=%ff&z=%00 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nmore",
    UPGRADE + b"Content-Length: 3\r\n\r\nabc",
    b"GET /wait?seconds=0 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    *AMBIGUOUS.values(),
    *(CHUNKED + chunks for chunks in BAD_CHUNKS.values()),
]
TOKENS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"0", b"-1", b"chunked", b"\r\n\r\n"]


def mutated(rng: random.Random) -> bytes:
    """Return bytes that are almost requests."""
    mutant = bytearray(b"".join(rng.choices(SEEDS, k=rng.randint(1, 3))))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        position = rng.randrange(len(mutant) + 1)
        match rng.randrange(4):
            case 0:
                mutant[position : position + 1] = bytes([rng.randrange(256)])
            case 1:
                mutant[position:position] = rng.choice(TOKENS)
            case 2:
                del mutant[position : position + rng.randint(1, 8)]
            case _:
                mutant[position:position] = mutant[rng.randrange(len(mutant) + 1) :][:50]
    return bytes(mutant)


async def send_garbage(server: MemoryServer, rng: random.Random) -> None:
    """Open a connection, send garbage in pieces, and close it in one of several ways."""
    client = server.connect()
    payload = mutated(rng)
    with trio.move_on_after(5):
        try:
            while payload:
                size = rng.choice([1, 7, 100, 10_000])
                await client.send(payload[:size])
                payload = payload[size:]
            if rng.random() < 0.7:
                await client.stream.send_stream.aclose()
                received = await client.until_closed()
                assert not received or received.startswith(b"HTTP/1.1 ")
        except trio.BrokenResourceError:
            pass
    await client.stream.aclose()


async def fuzz(seed: int, connections: int) -> None:
    rng = random.Random(seed)
    async with memory_server(
        limits=HttpLimits(head_s=1, keep_alive_s=1, reap_interval_s=0.2)
    ) as server:
        for _ in range(connections // 20):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(send_garbage, server, random.Random(rng.random()))

        status, _, body = await server.connect().request(SECRET)

    assert (status, body) == (200, b'{"hello":"world"}')


@pytest.mark.parametrize("seed", [1, 2])
async def test_garbage_does_not_harm_other_connections(
    seed: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await fuzz(seed, 400)

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.long
async def test_much_garbage_does_not_harm_other_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await fuzz(random.SystemRandom().randrange(1 << 30), 10_000)
