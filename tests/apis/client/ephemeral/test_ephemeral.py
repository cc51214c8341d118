"""Typing, receipts, presence, user directory and reports: routing, and invalid requests."""

from typing import Any

import attrs
import pytest

from hs.apis.client.directory.user_directory import UserDirectoryApi
from hs.apis.client.ephemeral.presence import PresenceApi
from hs.apis.client.ephemeral.receipts import ReceiptsApi
from hs.apis.client.ephemeral.typing_notifications import TypingApi
from hs.apis.client.rooms.reports import ReportsApi
from tests.support.web import Tokens, WebClient, client_for

ROOM = "/_matrix/client/v3/rooms/!room:test"


@attrs.define
class RecordingService:
    """Stands in for every service and records its calls."""

    recorded: list[tuple[Any, ...]] = attrs.Factory(list)

    async def set_typing(self, *args: Any) -> None:
        self.recorded.append(("typing", *args[1:]))

    async def set_receipt(self, *args: Any) -> None:
        self.recorded.append(("receipt", *args[1:]))

    async def set_markers(self, *args: Any) -> None:
        self.recorded.append(("markers", *args[1:]))

    async def set_presence(self, *args: Any) -> None:
        self.recorded.append(("presence", *args[1:]))

    async def search(self, *args: Any) -> dict[str, Any]:
        self.recorded.append(("search", *args[1:]))
        return {"limited": False, "results": []}

    async def report_room(self, *args: Any) -> None:
        self.recorded.append(("room", *args[1:]))

    async def report_event(self, *args: Any) -> None:
        self.recorded.append(("event", *args[1:]))

    async def report_user(self, *args: Any) -> None:
        self.recorded.append(("user", *args[1:]))


def make_client(recorder: RecordingService) -> WebClient:
    tokens = Tokens()
    tokens.user("alice")
    service: Any = recorder
    return client_for(
        TypingApi(service),
        ReceiptsApi(service),
        PresenceApi(service),
        UserDirectoryApi(service),
        ReportsApi(service),
        tokens=tokens,
    )


@pytest.mark.parametrize(
    ("method", "path", "content", "expected"),
    [
        (
            "PUT",
            f"{ROOM}/typing/@alice:test",
            {"typing": True, "timeout": 5000},
            ("typing", "!room:test", "@alice:test", 5000),
        ),
        (
            "PUT",
            f"{ROOM}/typing/@alice:test",
            {"typing": False, "timeout": 5000},
            ("typing", "!room:test", "@alice:test", 0),
        ),
        (
            "POST",
            f"{ROOM}/receipt/m.read/$event",
            {"thread_id": "main"},
            ("receipt", "!room:test", "m.read", "$event", "main"),
        ),
        (
            "POST",
            f"{ROOM}/receipt/m.read/$event",
            None,
            ("receipt", "!room:test", "m.read", "$event", None),
        ),
        (
            "POST",
            f"{ROOM}/read_markers",
            {"m.read": "$event"},
            ("markers", "!room:test", {"m.read": "$event"}),
        ),
        (
            "PUT",
            "/_matrix/client/v3/presence/@alice:test/status",
            {"presence": "online"},
            ("presence", "@alice:test", "online", None),
        ),
        (
            "POST",
            "/_matrix/client/v3/user_directory/search",
            {"search_term": "bob"},
            ("search", "bob", 10),
        ),
        ("POST", f"{ROOM}/report", {"reason": ""}, ("room", "!room:test", "")),
        (
            "POST",
            f"{ROOM}/report/$event",
            {"reason": "rude", "score": -50},
            ("event", "!room:test", "$event", "rude", -50),
        ),
        (
            "POST",
            "/_matrix/client/v3/users/@bob:test/report",
            {"reason": "rude"},
            ("user", "@bob:test", "rude"),
        ),
    ],
)
async def test_request_calls_its_service(
    method: str, path: str, content: Any, expected: tuple[Any, ...]
) -> None:
    recorder = RecordingService()

    response = await make_client(recorder).request(method, path, json=content, token="alice")

    assert response.status == 200
    assert recorder.recorded == [expected]


@pytest.mark.parametrize(
    ("method", "path", "content", "errcode"),
    [
        ("PUT", f"{ROOM}/typing/@alice:test", {}, "M_MISSING_PARAM"),
        ("PUT", f"{ROOM}/typing/@alice:test", {"typing": "yes"}, "M_BAD_JSON"),
        ("PUT", f"{ROOM}/typing/@alice:test", {"typing": True, "timeout": "1"}, "M_BAD_JSON"),
        ("PUT", f"{ROOM}/typing/alice", {"typing": True}, "M_INVALID_PARAM"),
        ("POST", f"{ROOM}/receipt/m.read/event", {}, "M_INVALID_PARAM"),
        ("POST", f"{ROOM}/receipt/m.read/$event", {"thread_id": None}, "M_INVALID_PARAM"),
        ("POST", f"{ROOM}/receipt/m.read/$event", [], "M_BAD_JSON"),
        ("PUT", "/_matrix/client/v3/presence/@alice:test/status", {}, "M_MISSING_PARAM"),
        (
            "PUT",
            "/_matrix/client/v3/presence/@alice:test/status",
            {"presence": "online", "status_msg": 5},
            "M_BAD_JSON",
        ),
        ("POST", "/_matrix/client/v3/user_directory/search", {}, "M_MISSING_PARAM"),
        ("POST", "/_matrix/client/v3/user_directory/search", {"search_term": 5}, "M_BAD_JSON"),
        ("POST", f"{ROOM}/report", {}, "M_MISSING_PARAM"),
        ("POST", f"{ROOM}/report/$event", {"reason": 5}, "M_BAD_JSON"),
        ("POST", f"{ROOM}/report/$event", {"score": "high"}, "M_BAD_JSON"),
        ("POST", f"{ROOM}/report/$event", {"score": 1.5}, "M_BAD_JSON"),
        ("POST", "/_matrix/client/v3/users/@bob:test/report", {"reason": None}, "M_MISSING_PARAM"),
    ],
)
async def test_invalid_request_calls_no_service(
    method: str, path: str, content: Any, errcode: str
) -> None:
    recorder = RecordingService()

    response = await make_client(recorder).request(method, path, json=content, token="alice")

    assert (response.status, response.errcode) == (400, errcode)
    assert recorder.recorded == []
