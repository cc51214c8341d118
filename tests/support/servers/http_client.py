"""A minimal HTTP/1.1 client over trio and h11: one keep-alive connection, one request at a time."""

from types import TracebackType
from typing import Any, Self

import attrs
import h11
import orjson
import trio

from tests.support.web import WebResponse

_RECEIVE_BYTES = 65536
_CLOSE_S = 1.0


class ConnectionLost(ConnectionError):
    """The connection failed, or was closed before the response was complete."""


@attrs.define
class HttpClient:
    """A client of one server; after a failed request the next one opens a new connection."""

    port: int
    token: str | None = None
    host: str = "127.0.0.1"
    _stream: trio.SocketStream | None = None
    _state: h11.Connection = attrs.Factory(lambda: h11.Connection(h11.CLIENT))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with trio.move_on_after(_CLOSE_S, shield=True):
                await stream.aclose()

    async def get(self, target: str, **more: Any) -> WebResponse:
        """Send a GET request."""
        return await self.request("GET", target, **more)

    async def post(self, target: str, json: Any = None, **more: Any) -> WebResponse:
        """Send a POST request."""
        return await self.request("POST", target, json=json, **more)

    async def put(self, target: str, json: Any = None, **more: Any) -> WebResponse:
        """Send a PUT request."""
        return await self.request("PUT", target, json=json, **more)

    async def request(
        self,
        method: str,
        target: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> WebResponse:
        """Send a request and return the complete response.

        Raises: ConnectionError, if the connection fails or is closed before that.
        """
        if body is None:
            body = b"" if json is None else orjson.dumps(json)
        try:
            return await self._exchange(method, target, body, headers or {})
        except (trio.BrokenResourceError, OSError, h11.RemoteProtocolError) as error:
            await self.aclose()
            raise ConnectionLost(f"{method} {target}: {error}") from error
        except BaseException:
            # After an incomplete exchange the connection cannot be used again.
            await self.aclose()
            raise

    async def _exchange(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> WebResponse:
        stream = await self._connect()
        sent_headers = {
            "host": f"{self.host}:{self.port}",
            "content-length": str(len(body)),
            **headers,
        }
        if self.token is not None:
            sent_headers.setdefault("authorization", f"Bearer {self.token}")
        request = h11.Request(method=method, target=target, headers=list(sent_headers.items()))
        parts = [self._state.send(request)]
        if body:
            parts.append(self._state.send(h11.Data(data=body)))
        self._state.send(h11.EndOfMessage())
        await stream.send_all(b"".join(part for part in parts if part))
        response = await self._read_response(stream)
        if self._state.our_state is h11.MUST_CLOSE or self._state.their_state is h11.MUST_CLOSE:
            await self.aclose()
        else:
            self._state.start_next_cycle()
        return response

    async def _connect(self) -> trio.SocketStream:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream(self.host, self.port)
            self._state = h11.Connection(h11.CLIENT)
        return self._stream

    async def _read_response(self, stream: trio.SocketStream) -> WebResponse:
        status, headers, body = 0, {}, bytearray()
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA:
                self._state.receive_data(await stream.receive_some(_RECEIVE_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return WebResponse(status, headers, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionLost("connection closed without a response")
