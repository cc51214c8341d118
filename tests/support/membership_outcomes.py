"""What Bob and Alice may ask for about Bob's membership in a public room of Alice's."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

V3: Final = "/_matrix/client/v3"
REFUSED: Final = 403

Outcome = tuple[int, str | None]
"""The status of a response, and Bob's membership after it."""


def _when(*memberships_before: str | None, then: str) -> Callable[[str | None], Outcome]:
    """Return what a request yields that is refused unless Bob's membership is one of these."""

    def outcome(before: str | None) -> Outcome:
        return (200, then) if before in memberships_before else (REFUSED, before)

    return outcome


def _leaving(before: str | None) -> Outcome:
    if before in ("join", "invite", "leave"):
        return 200, "leave"
    return REFUSED, before


OUTCOMES: Final[Mapping[str, Callable[[str | None], Outcome]]] = {
    "join": _when(None, "leave", "invite", "join", then="join"),
    "leave": _leaving,
    "invite": _when(None, "leave", "invite", then="invite"),
    "kick": _when("join", "invite", then="leave"),
    "ban": _when(None, "leave", "invite", "join", "ban", then="ban"),
    "unban": _when("ban", then="leave"),
    "set join": _when(None, "leave", "invite", "join", then="join"),
    "set leave": _when("join", "invite", then="leave"),
}
"""What each request yields in a public room whose admin is Alice, by Bob's membership before."""


def request_of(action: str, room_id: str, user_id: str) -> tuple[str, str, Any, str]:
    """Return the method, path and body of a request of OUTCOMES, and who sends it."""
    room = f"{V3}/rooms/{quote(room_id)}"
    if action in ("join", "leave"):
        return "POST", f"{room}/{action}", {}, "bob"
    if action.startswith("set "):
        # Equal events would be one event.
        content = {"membership": action[4:], "reason": secrets.token_hex()}
        return "PUT", f"{room}/state/m.room.member/{quote(user_id)}", content, "bob"
    return "POST", f"{room}/{action}", {"user_id": user_id}, "alice"
