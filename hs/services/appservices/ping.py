"""Pings: application services check whether this server can reach them.

Spec: application service API, Pinging.
"""

from typing import Final

import attrs
import orjson
import trio

from hs.core.errors import Forbidden, MatrixError
from hs.core.requester import Requester
from hs.core.streams import CacheRow
from hs.lib.http_client import HttpFault, HttpTimedOut
from hs.repl.memory_writer import MemoryWriter
from hs.services.appservices.appservice_client import AppserviceClient, AppserviceRoute
from hs.services.appservices.appservice_registry import AppserviceRegistry

REACHABLE: Final = "appservice_reachable"
"""Row of the stream `caches`: these services were reached, so failed sends can be retried now."""

ANSWER_S: Final = 30.0
MAX_BODY_CHARS: Final = 1000


@attrs.frozen(eq=False)
class AppservicePing:
    """The ping of a service on its own request."""

    _registry: AppserviceRegistry
    _calls: AppserviceClient
    _caches: MemoryWriter[CacheRow]

    async def ping(self, requester: Requester, service_id: str, txn_id: str | None) -> int:
        """Ping the requesting service; return the duration in ms.

        Raises: Forbidden, MatrixError (M_URL_NOT_SET, M_BAD_STATUS, M_CONNECTION_FAILED,
        M_CONNECTION_TIMEOUT).
        """
        service = self._registry.of_requester(requester)
        if service.id != service_id:
            raise Forbidden("The access token is not that of this application service")
        if service.registration.url is None:
            raise MatrixError(
                "M_URL_NOT_SET", 400, "The registration of the application service has no URL"
            )
        content = {} if txn_id is None else {"transaction_id": txn_id}
        began = trio.current_time()
        try:
            answer = await self._calls.send(
                service,
                "POST",
                AppserviceRoute("/ping"),
                body=orjson.dumps(content),
                timeout_s=ANSWER_S,
            )
        except HttpTimedOut as error:
            raise MatrixError("M_CONNECTION_TIMEOUT", 504, error.message) from error
        except HttpFault as error:
            raise MatrixError("M_CONNECTION_FAILED", 502, error.message) from error
        duration_ms = int((trio.current_time() - began) * 1000)
        if not 200 <= answer.status < 300:
            bad_status = MatrixError("M_BAD_STATUS", 502, f"Ping returned status {answer.status}")
            bad_status.extra["status"] = answer.status
            bad_status.extra["body"] = answer.body.decode("utf-8", "replace")[:MAX_BODY_CHARS]
            raise bad_status
        self._caches.append_nowait([CacheRow(REACHABLE, (service.id,))])
        return duration_ms
