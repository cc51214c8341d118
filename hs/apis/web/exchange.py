"""How the application responds to one request: to our own server directly, or to any by ASGI."""

from typing import Any, Protocol

import attrs

from hs.apis.web.client_address import LOCAL, normalized_address
from hs.apis.web.http1_writer import InvalidResponse, ResponseHead
from hs.apis.web.http_request import HttpRequest
from hs.apis.web.listener_view import ListenerView
from hs.apis.web.transport import Transport


class Exchange(Protocol):
    """The server's side of one request."""

    async def respond(self, head: ResponseHead, body: bytes) -> None:
        """Send a whole response."""
        ...

    async def send(self, message: Any) -> None:
        """Send the head or a part of the body of a response (ASGI)."""
        ...

    async def upgrade(self, protocol: str) -> Transport:
        """Switch the connection to another protocol, and return it. It closes after the request."""
        ...

    async def receive(self) -> Any:
        """Return the next part of the request's body (ASGI)."""
        ...

    def asgi_scope(self) -> Any:
        """Return the scope of the request (ASGI), for pages that are not declared endpoints."""
        ...


@attrs.frozen(eq=False)
class AsgiExchange:
    """An exchange with any ASGI server."""

    scope: Any
    receive: Any
    send: Any

    def asgi_scope(self) -> Any:
        """Return the scope of the request."""
        return self.scope

    async def respond(self, head: ResponseHead, body: bytes) -> None:
        """Send a whole response."""
        headers = [*head.headers, (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": head.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def upgrade(self, protocol: str) -> Transport:
        """Raise InvalidResponse: ASGI has no way to switch to any protocol."""
        raise InvalidResponse(f"The protocol {protocol} is served by our own server only")

    def http_request(self, view: ListenerView) -> HttpRequest:
        """Return the request, as a listener with this view has received it."""
        client = self.scope.get("client")
        peer = client[0] if client else None
        http_request = HttpRequest(
            method=self.scope["method"],
            raw_path=self.scope["raw_path"].decode("latin-1"),
            query_string=self.scope["query_string"],
            headers=self.scope["headers"],
            receive=self.receive,
            client_ip=normalized_address(peer or LOCAL),
        )
        view.set_forwarded_client(http_request, peer)
        return http_request
