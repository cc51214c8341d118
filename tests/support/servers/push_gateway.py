"""A push gateway: a real HTTP server in a thread, which records what it receives."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import attrs

from tests.support.servers.json_server import JsonHandler, running_json_server

PATH = "/_matrix/push/v1/notify"
WAIT_S = 90.0
POLL_S = 0.02


@attrs.define
class Gateway:
    """The received notifications in order; `answers` are the statuses of the next responses."""

    url: str = ""
    notifications: list[dict[str, Any]] = attrs.Factory(list)
    request_count: int = 0
    answers: list[int] = attrs.Factory(list)
    rejected: list[str] = attrs.Factory(list)

    def take(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Record a notification, or fail as configured; return status and body."""
        self.request_count += 1
        if self.answers and (status := self.answers.pop(0)) != 200:
            return status, {}
        self.notifications.append(json.loads(body)["notification"])
        return 200, {"rejected": self.rejected}

    def events(self, pushkey: str | None = None) -> list[str]:
        """Return the IDs of the notified events, with repetitions."""
        return [
            notification["event_id"]
            for notification in list(self.notifications)
            if "event_id" in notification
            and pushkey in (None, notification["devices"][0]["pushkey"])
        ]

    def badges(self) -> list[int]:
        """Return the unread counts of notifications without an event."""
        return [
            notification["counts"]["unread"]
            for notification in list(self.notifications)
            if "event_id" not in notification
        ]

    def repeated(self) -> dict[tuple[str, str], int]:
        """Return the number of notifications for each (event, pushkey) that had more than one."""
        keys = [
            (notification["event_id"], notification["devices"][0]["pushkey"])
            for notification in list(self.notifications)
            if "event_id" in notification
        ]
        return {key: count for key, count in Counter(keys).items() if count > 1}

    def of_event(self, event_id: str) -> dict[str, Any]:
        """Wait until an event is notified and return the notification."""
        self.wait_until(lambda: event_id in self.events(), f"{event_id} to be pushed")
        return deepcopy(
            next(
                notification
                for notification in self.notifications
                if notification.get("event_id") == event_id
            )
        )

    def wait_until(self, holds: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
        """Block until a condition holds; do not call it in the event loop."""
        deadline = time.monotonic() + wait_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"timed out waiting for {what}; last notifications: {self.notifications[-3:]}"
                )
            time.sleep(POLL_S)


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    """Run a gateway on a free port of this machine."""
    gateway = Gateway()

    class Handler(JsonHandler):
        def answer(self, body: bytes) -> tuple[int, object]:
            is_notification = self.command == "POST" and self.path == PATH
            return gateway.take(body) if is_notification else (404, {})

    with running_json_server(Handler) as url:
        gateway.url = f"{url}{PATH}"
        yield gateway
