"""An application service: a real HTTP server in a thread, which records what it receives."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import yaml

from tests.support.servers.json_server import JsonHandler, running_json_server

WAIT_S = 120.0
POLL_S = 0.02
TRANSACTIONS = "/_matrix/app/v1/transactions/"

Answer = tuple[int, Any]


@attrs.frozen
class BridgeRequest:
    """A recorded request."""

    method: str
    path: str
    query: str
    authorization: str
    body: Any


@attrs.define
class Bridge:
    """The received requests.

    `pages` serve other paths than transactions; `refuses` is the number of transactions to fail.
    """

    id: str
    url: str = ""
    as_token: str = ""
    hs_token: str = ""
    sender: str = "bridgebot"
    transactions_to_fail: int = 0
    transactions: dict[str, dict[str, Any]] = attrs.Factory(dict)
    order: list[str] = attrs.Factory(list)
    requests: list[BridgeRequest] = attrs.Factory(list)
    pages: dict[str, Callable[[BridgeRequest], Answer]] = attrs.Factory(dict)
    changed_transactions: list[str] = attrs.Factory(list)

    def registration(self, **more: Any) -> dict[str, Any]:
        """Return the content of the registration file."""
        return {
            "id": self.id,
            "url": self.url,
            "as_token": self.as_token,
            "hs_token": self.hs_token,
            "sender_localpart": self.sender,
            "rate_limited": False,
            "namespaces": {
                "users": [{"exclusive": True, "regex": f"@_{self.id}_.*"}],
                "aliases": [{"exclusive": True, "regex": f"#_{self.id}_.*"}],
                "rooms": [],
            },
            "receive_ephemeral": True,
            "org.matrix.msc3202": True,
            "io.element.msc4190": True,
            "protocols": ["fax"],
            **more,
        }

    def write(self, folder: Path, **more: Any) -> str:
        """Write the registration file and return its path."""
        path = folder / f"{self.id}.yaml"
        path.write_text(yaml.safe_dump(self.registration(**more)))
        return str(path)

    def take(self, request: BridgeRequest) -> Answer:
        """Handle one request and return the response."""
        self.requests.append(request)
        if request.authorization != f"Bearer {self.hs_token}":
            return 403, {"errcode": "M_FORBIDDEN"}
        if request.path.startswith(TRANSACTIONS):
            return self._take_transaction(request)
        page = self.pages.get(request.path)
        return (404, {"errcode": "M_NOT_FOUND"}) if page is None else page(request)

    def _take_transaction(self, request: BridgeRequest) -> Answer:
        if self.transactions_to_fail:
            self.transactions_to_fail -= 1
            return 500, {}
        txn_id = request.path.removeprefix(TRANSACTIONS)
        known = self.transactions.setdefault(txn_id, request.body)
        if known is request.body:
            self.order.append(txn_id)
        elif known != request.body:
            self.changed_transactions.append(txn_id)
        return 200, {}

    def parts(self, key: str) -> list[Any]:
        """Return the concatenated lists under a key of all transactions, each counted once."""
        return [
            entry for txn_id in list(self.order) for entry in self.transactions[txn_id].get(key, [])
        ]

    def objects(self, key: str) -> list[Any]:
        """Return the values under a key of all transactions that have it."""
        bodies = [self.transactions[txn_id] for txn_id in list(self.order)]
        return [body[key] for body in bodies if key in body]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all transactions."""
        return self.parts("events")

    def texts(self) -> list[str]:
        """Return the texts of messages in the order of arrival."""
        return [
            event["content"]["body"] for event in self.events if event["type"] == "m.room.message"
        ]

    def wait_until(self, holds: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
        """Block until a condition holds and return its value; do not call it in the event loop."""
        deadline = time.monotonic() + wait_s
        while not (value := holds()):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"timed out waiting for {what}; last requests: {self.requests[-5:]}"
                )
            time.sleep(POLL_S)
        return value


@contextmanager
def running_bridge(name: str) -> Iterator[Bridge]:
    """Run an application service on a free port of this machine."""
    bridge = Bridge(name, as_token=f"as-token-of-{name}", hs_token=f"hs-token-of-{name}")
    bridge.sender = f"{name}bot"

    class Handler(JsonHandler):
        def answer(self, body: bytes) -> Answer:
            target = urlsplit(self.path)
            request = BridgeRequest(
                method=self.command,
                path=unquote(target.path),
                query=target.query,
                authorization=self.headers.get("authorization", ""),
                body=json.loads(body) if body else None,
            )
            return bridge.take(request)

    with running_json_server(Handler) as url:
        bridge.url = url
        yield bridge
