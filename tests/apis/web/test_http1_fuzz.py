"""Garbage in, and the server still stands: mutated requests on many connections."""

import random

import pytest
import trio

from hs.apis.web.http1_limits import HttpBounds
from tests.apis.web.conversation import Conversations, talking
from tests.apis.web.test_http1_refusals import AMBIGUOUS, BAD_CHUNKS, SECRET

CHUNKED = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ASKING = b"POST /echo/a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
SEEDS = [
    SECRET,
    CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    b"POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"PUT /echo/%2f HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /parts HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /_matrix/client/v3/x?y=%ff&z=%00 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nmore",
    ASKING + b"Content-Length: 3\r\n\r\nabc",
    b"GET /wait?seconds=0 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    *AMBIGUOUS.values(),
    *(CHUNKED + chunks for chunks in BAD_CHUNKS.values()),
]
TOKENS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"0", b"-1", b"chunked", b"\r\n\r\n"]


def mutated(chance: random.Random) -> bytes:
    """Make bytes that are nearly requests."""
    made = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 3))))
    for _ in range(chance.choice([0, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0:
                made[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                made[at:at] = chance.choice(TOKENS)
            case 2:
                del made[at : at + chance.randint(1, 8)]
            case _:
                made[at:at] = made[chance.randrange(len(made) + 1) :][:50]
    return bytes(made)


async def annoy(conversations: Conversations, chance: random.Random) -> None:
    """Open a connection, send garbage in pieces, and leave in one of several ways."""
    peer = conversations.connect()
    payload = mutated(chance)
    with trio.move_on_after(5):
        try:
            while payload:
                size = chance.choice([1, 7, 100, 10_000])
                await peer.send(payload[:size])
                payload = payload[size:]
            if chance.random() < 0.7:
                await peer.stream.send_stream.aclose()
                received = await peer.until_closed()
                assert not received or received.startswith(b"HTTP/1.1 ")
        except trio.BrokenResourceError:
            pass
    await peer.stream.aclose()


async def fuzz(seed: int, connections: int) -> None:
    chance = random.Random(seed)
    async with talking(bounds=HttpBounds(head_s=1, keep_alive_s=1, tick_s=0.2)) as conversations:
        for _ in range(connections // 20):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(annoy, conversations, random.Random(chance.random()))

        status, _, body = await conversations.connect().ask(SECRET)

    assert (status, body) == (200, b'{"hello":"world"}')


@pytest.mark.parametrize("seed", [1, 2])
async def test_garbage_harms_nobody_else(
    seed: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await fuzz(seed, 400)

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.long
async def test_much_garbage_harms_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    await fuzz(random.SystemRandom().randrange(1 << 30), 10_000)
