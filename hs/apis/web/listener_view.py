"""The part of the application that one listener serves, and whose requests it forwards."""

import logging
from typing import Final

import attrs
import trio

from hs.apis.web.client_address import TrustedProxies
from hs.apis.web.connection_counts import ConnectionCounts
from hs.apis.web.http_request import HttpRequest
from hs.apis.web.route import resources_of
from hs.apis.web.router import Router, WrongMethod
from hs.core.errors import MatrixError

log = logging.getLogger(__name__)

LOGGED_EVERY_S: Final = 60.0
"""How often it is logged that a resource is missing."""

# Nobody should add these because of requests from outside.
_PRIVATE: Final = frozenset(("replication", "metrics", "health"))

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


@attrs.define(eq=False)
class MissingResources:
    """Logs which resource a listener lacks for requests that another one would serve.

    `router` finds the endpoints of the whole process.
    """

    _router: Router
    _serves_media: bool
    _logged_s: dict[str, float] = attrs.Factory(dict)

    def note(self, view: ListenerView, http_request: HttpRequest) -> None:
        """Log a request that is not served, if a resource is missing for it."""
        method, path = http_request.method, http_request.raw_path
        wanted = resources_of(path)
        resource = "media" if "media" in wanted else min(wanted)
        if wanted <= _PRIVATE or trio.current_time() < self._logged_s.get(resource, 0.0):
            return
        if resource == "media" and not self._serves_media:
            log.warning(
                "responding 404 to %s %s: enable_media_repo is false in this process; let the "
                "reverse proxy send these paths to a process that serves media",
                method,
                path,
            )
        elif not wanted & view.resources and self._is_known(method, path):
            log.warning(
                "responding 404 to %s %s: add the resource %s to the listener, which has %s, or "
                "let the reverse proxy send these paths to a listener that has it",
                method,
                path,
                resource,
                ", ".join(sorted(view.resources - _PRIVATE)) or "none",
            )
        else:
            return
        self._logged_s[resource] = trio.current_time() + LOGGED_EVERY_S

    def _is_known(self, method: str, path: str) -> bool:
        try:
            return self._router.find(method, path) is not None
        except (WrongMethod, MatrixError):
            return False
