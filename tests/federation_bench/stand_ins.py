"""Stand-in servers: one TLS listener that answers under many names, `127.0.1.1:PORT` and so on.

They serve prepared rooms, accept every transaction, and count the PDUs that arrive.
"""

import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.ids import RoomID, ServerName, UserID
from hs.core.signing.requests import authorization_header
from hs.core.signing.signed_json import sign_json
from tests.federation_bench.prepared_rooms import PreparedRoom
from tests.support.peers import signer_of
from tests.support.servers.sites import SiteRequest, read_request

FEDERATION = "/_matrix/federation"
KEYS = "/_matrix/key/v2/server"
VALID_UNTIL_MS = 1_900_000_000_000
WAIT_S = 300.0

SignedTransaction = tuple[str, bytes, dict[str, str]]


def addresses(count: int) -> list[str]:
    """Return addresses of this machine."""
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


@attrs.define(eq=False)
class StandIns:
    """The stand-in servers; `arrived` counts the PDUs that each was sent."""

    names: list[ServerName]
    rooms: dict[RoomID, PreparedRoom] = attrs.Factory(dict)
    arrived: Counter[str] = attrs.Factory(Counter)
    transactions: int = 0
    _arrival: trio.Condition = attrs.Factory(trio.Condition)

    def serve_room(self, room: PreparedRoom) -> RoomID:
        """Let others join a room through the first of the servers; return its ID."""
        assert room.room_id is not None
        room.prepare_answer(self.names[0])
        self.rooms[room.room_id] = room
        return room.room_id

    async def wait_for_arrivals(self, count: int) -> None:
        """Wait until the servers together have been sent a number of PDUs."""
        with trio.fail_after(WAIT_S):
            async with self._arrival:
                while self.arrived.total() < count:
                    await self._arrival.wait()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve the requests of one connection."""
        try:
            while (request := await read_request(stream)) is not None:
                status, body = await self._answer(request)
                head = (
                    f"HTTP/1.1 {status} Reason\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(body)}\r\n\r\n"
                )
                await stream.send_all(head.encode("ascii") + body)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _answer(self, request: SiteRequest) -> tuple[int, bytes]:
        path = request.path.partition("?")[0]
        name = ServerName(request.headers.get("host", ""))
        if path.startswith(KEYS):
            return 200, _keys_of(name)
        if path.startswith(f"{FEDERATION}/v1/send/"):
            await self._accept(name, orjson.loads(request.body))
            return 200, b'{"pdus":{}}'
        kind, _, rest = path.removeprefix(f"{FEDERATION}/").partition("/")[2].partition("/")
        room_id, _, last = rest.partition("/")
        room = self.rooms.get(RoomID(unquote(room_id)))
        if room is not None and kind == "make_join":
            return 200, orjson.dumps(room.join_template(UserID(unquote(last))))
        if room is not None and kind == "send_join":
            return 200, room.accept_join(request.body)
        return 404, b'{"errcode":"M_UNRECOGNIZED","error":"not served"}'

    async def _accept(self, name: str, transaction: JsonObject) -> None:
        self.transactions += 1
        async with self._arrival:
            self.arrived[name] += len(transaction.get("pdus", ()))
            self._arrival.notify_all()


def _keys_of(name: ServerName) -> bytes:
    signer = signer_of(name)
    keys = {
        "server_name": name,
        "verify_keys": {signer.key.key_id: {"key": signer.key.verify_key.base64}},
        "old_verify_keys": {},
        "valid_until_ts": VALID_UNTIL_MS,
    }
    return orjson.dumps(sign_json(keys, signer))


def signed_transaction(
    origin: ServerName, destination: str, number: int, content: JsonObject
) -> SignedTransaction:
    """Return the URI, body and headers of a transaction."""
    uri = f"{FEDERATION}/v1/send/bench{number}"
    body = canonical_json({"origin": origin, "origin_server_ts": VALID_UNTIL_MS, **content})
    header = authorization_header(signer_of(origin), destination, "PUT", uri, body)
    return uri, body, {"authorization": header, "content-type": "application/json"}


@asynccontextmanager
async def open_stand_ins(count: int, port: int, tls: ssl.SSLContext) -> AsyncIterator[StandIns]:
    """Run stand-in servers."""
    hosts = addresses(count)
    stand_ins = StandIns([ServerName(f"{host}:{port}") for host in hosts])
    listeners = [
        trio.SSLListener(listener, tls, https_compatible=True)
        for host in hosts
        for listener in await trio.open_tcp_listeners(port, host=host)
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, stand_ins.serve, listeners)
        yield stand_ins
        nursery.cancel_scope.cancel()
