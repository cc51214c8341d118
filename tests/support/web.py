"""An HTTP client for tests that calls the application in process, without sockets."""

from collections.abc import AsyncIterable
from typing import Any
from urllib.parse import urlencode

import attrs
import orjson
import trio

from hs.apis.web.app import Application
from hs.apis.web.route import collect
from hs.core.errors import Forbidden, UnknownToken
from hs.core.ids import UserID
from hs.core.requester import Requester


@attrs.define
class Tokens:
    """An Authenticator over a dict of tokens; the user `@name:test` has the token `name`."""

    requesters: dict[str, Requester] = attrs.field(factory=dict)

    def user(self, name: str, **more: Any) -> Requester:
        """Add a user, whose token is the name, and return the requester."""
        requester = Requester(
            UserID(f"@{name}:test"), **{"device_id": name.upper(), "token_id": 1, **more}
        )
        self.requesters[name] = requester
        return requester

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        return self.requesters.get(token)

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        await trio.lowlevel.checkpoint()
        raise UnknownToken("Unknown access token", soft_logout=False)

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Do nothing."""

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        await trio.lowlevel.checkpoint()
        if user_id is not None and not user_id.endswith(":test"):
            raise Forbidden("Not a user of this server")
        return attrs.evolve(
            requester, user_id=UserID(user_id or requester.user_id), device_id=device_id
        )


@attrs.frozen
class WebResponse:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return orjson.loads(self.body)

    @property
    def errcode(self) -> str | None:
        """The errcode of an error response."""
        code: str | None = self.json.get("errcode")
        return code


@attrs.define
class WebClient:
    """Calls an application the way a listener does."""

    app: Any
    state: dict[str, Any] = attrs.field(factory=dict)
    client_ip: str = "192.0.2.1"

    async def get(self, path: str, **more: Any) -> WebResponse:
        return await self.request("GET", path, **more)

    async def put(self, path: str, json: Any = None, **more: Any) -> WebResponse:
        return await self.request("PUT", path, json=json, **more)

    async def post(self, path: str, json: Any = None, **more: Any) -> WebResponse:
        return await self.request("POST", path, json=json, **more)

    async def delete(self, path: str, json: Any = None, **more: Any) -> WebResponse:
        return await self.request("DELETE", path, json=json, **more)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | AsyncIterable[bytes] | None = None,
        token: str | None = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        disconnect: trio.Event | None = None,
    ) -> WebResponse:
        """Send a request and return the response; setting `disconnect` ends the connection.

        Raises: ConnectionError, if the application closes the connection without a response.
        """
        if body is None:
            body = b"" if json is None else orjson.dumps(json)
        raw_path, _, query_string = path.partition("?")
        if query:
            query_string = urlencode(query, doseq=True)
        sent_headers = {"host": "test", "user-agent": "tests", **(headers or {})}
        if token is not None:
            sent_headers["authorization"] = f"Bearer {token}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": raw_path,
            "raw_path": raw_path.encode("ascii"),
            "query_string": query_string.encode("ascii"),
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode()) for name, value in sent_headers.items()
            ],
            "client": (self.client_ip, 40000),
            "server": ("test", 8008),
            "state": self.state,
        }
        exchange = _Exchange(body, trio.Event() if disconnect is None else disconnect)
        await self.app(scope, exchange.receive, exchange.send)
        return exchange.answer()


class _Exchange:
    """One request and response over the ASGI interface."""

    def __init__(self, body: bytes | AsyncIterable[bytes], disconnect: trio.Event) -> None:
        self._whole = body if isinstance(body, bytes) else None
        self._parts = None if isinstance(body, bytes) else aiter(body)
        self._hang_up = disconnect
        self._sent_all = False
        self._status: int | None = None
        self._headers: dict[str, str] = {}
        self._body = b""

    async def receive(self) -> dict[str, Any]:
        if not self._sent_all:
            part = self._whole if self._parts is None else await anext(self._parts, None)
            self._sent_all = part is None or self._parts is None
            return {"type": "http.request", "body": part or b"", "more_body": not self._sent_all}
        await self._hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message["headers"]:
                self._headers[name.decode()] = value.decode("latin-1")
        else:
            self._body += message["body"]

    def answer(self) -> WebResponse:
        if self._status is None:
            raise ConnectionError("connection closed without a response")
        return WebResponse(self._status, self._headers, self._body)


def client_for(*apis: object, tokens: Tokens | None = None, **more: Any) -> WebClient:
    """Return a client of an application that serves these endpoint objects."""
    return WebClient(Application(collect(*apis), tokens or Tokens(), **more))
