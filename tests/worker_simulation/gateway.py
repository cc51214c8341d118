"""The push gateway of a simulation, which records what it is sent."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import orjson
import trio

from hs.lib.http_client import (
    MAX_RESPONSE_BYTES,
    NO_HEADERS,
    RESPONSE_TIMEOUT_S,
    HttpResponse,
    HttpTimedOut,
)
from tests.worker_simulation.scheduling import OWNER
from tests.worker_simulation.tables import TableEvent
from tests.worker_simulation.users import User

URL: Final = "https://push.example.org/_matrix/push/v1/notify"


@attrs.define(eq=False)
class Gateway:
    """An HttpClient that reaches only the gateway; `sent` are the IDs of events, in order."""

    sent: list[str] = attrs.Factory(list)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = RESPONSE_TIMEOUT_S,
        max_bytes: int = MAX_RESPONSE_BYTES,
        redirects: int = 0,
    ) -> HttpResponse:
        """Record a notification."""
        await trio.lowlevel.checkpoint()
        if OWNER.get().is_dead:
            raise HttpTimedOut("the process is dead")
        notification = orjson.loads(body or b"")["notification"]
        if "event_id" in notification:
            self.sent.append(notification["event_id"])
        return HttpResponse(200, {}, b'{"rejected":[]}', url)

    def check(self, events: Sequence[TableEvent], most_doubled: int) -> list[str]:
        """Return what is wrong with the notifications of a room for a user who only reads."""
        expected = [event.event_id for event in events if event.type == "m.room.message"]
        counts = Counter(self.sent)
        problems = [f"no push of {event_id}" for event_id in expected if not counts[event_id]]
        arrived = [event_id for event_id in dict.fromkeys(self.sent) if event_id in expected]
        if arrived != [event_id for event_id in expected if counts[event_id]]:
            problems.append(f"pushes in another order: {arrived}, not {expected}")
        doubled = sum(counts[event_id] - 1 for event_id in expected if counts[event_id])
        if doubled > most_doubled:
            problems.append(f"{doubled} pushes too many, and {most_doubled} are allowed")
        return problems


async def add_pusher(user: User) -> None:
    """Have a user notified through the gateway."""
    pusher = {
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": "key",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": URL, "format": "event_id_only"},
    }
    response = await user.ask("POST", "pushers", "set", json=pusher)
    assert response.status == 200, response.body
