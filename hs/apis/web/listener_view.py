"""The part of the application that one listener serves, and whose requests it forwards."""

import attrs

from hs.apis.web.client_address import TrustedProxies
from hs.apis.web.connection_counts import ConnectionCounts
from hs.apis.web.http_request import HttpRequest
from hs.apis.web.router import Router

# Where the ASGI state of a request has the view of its listener.
STATE_KEY = "hs.listener"


@attrs.frozen(eq=False)
class ListenerView:
    """The part of the application that one listener serves.

    Without `proxies`, X-Forwarded-For is ignored; with `counts`, requests that they forward are
    counted.
    """

    router: Router
    resources: frozenset[str]
    proxies: TrustedProxies | None = None
    counts: ConnectionCounts | None = None

    @property
    def serves_pages(self) -> bool:
        """Whether Quart handles the paths for which no endpoint is declared."""
        return "client" in self.resources

    def set_forwarded_client(self, http_request: HttpRequest, peer: str | None) -> None:
        """Set the client of a request, if a trusted proxy has forwarded it, and its source."""
        if self.proxies is None:
            return
        forwarded = http_request.header_values(b"x-forwarded-for")
        if not forwarded:
            return
        http_request.client_ip = self.proxies.client_of(peer, ",".join(forwarded))
        if self.counts is not None and self.proxies.trusts(peer):
            http_request.source = self.counts.counted_source(http_request.client_ip)
            if http_request.buffers is not None and http_request.source is not None:
                http_request.buffers.charge(http_request.source)
