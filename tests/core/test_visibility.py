"""History visibility: who sees an event, and events that change the visibility themselves."""

import pytest

from hs.core.events.event import Event
from hs.core.ids import UserID
from hs.core.visibility import (
    HistoryVisibility,
    Viewpoint,
    may_see,
    membership_at,
    server_may_see,
    visibility_in,
)
from tests.support.plain_events import plain_event

ALICE = UserID("@alice:here")
WORLD, SHARED, INVITED, JOINED = HistoryVisibility
MESSAGE = plain_event("m.room.message", "@bob:here", {"body": "x"})


def visibility_event(value: str) -> Event:
    content = {"history_visibility": value}
    return plain_event("m.room.history_visibility", "@bob:here", content, state_key="")


def member_event(user_id: str, membership: str) -> Event:
    return plain_event("m.room.member", "@bob:here", {"membership": membership}, state_key=user_id)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (Viewpoint(WORLD, "leave"), True),
        (Viewpoint(WORLD, "ban"), True),
        (Viewpoint(JOINED, "join"), True),
        (Viewpoint(SHARED, "leave", joined_since=True), True),
        (Viewpoint(SHARED, "leave"), False),
        (Viewpoint(SHARED, "invite"), False),
        (Viewpoint(INVITED, "invite"), True),
        (Viewpoint(INVITED, "leave", joined_since=True), False),
        (Viewpoint(JOINED, "invite", joined_since=True), False),
    ],
)
def test_visibility_of_message_by_membership_at_event(view: Viewpoint, expected: bool) -> None:
    assert may_see(MESSAGE, ALICE, view) is expected


@pytest.mark.parametrize(("before", "after"), [(WORLD, "joined"), (JOINED, "world_readable")])
def test_visibility_change_is_seen_under_old_or_new_setting(
    before: HistoryVisibility, after: str
) -> None:
    assert may_see(visibility_event(after), ALICE, Viewpoint(before, "leave"))
    assert not may_see(visibility_event("joined"), ALICE, Viewpoint(INVITED, "leave"))


def test_user_sees_own_membership_changes_only() -> None:
    assert may_see(member_event(ALICE, "join"), ALICE, Viewpoint(JOINED, "leave"))
    assert may_see(member_event(ALICE, "ban"), ALICE, Viewpoint(JOINED, "join"))
    assert not may_see(member_event("@carol:here", "join"), ALICE, Viewpoint(JOINED, "leave"))


def test_invalid_visibility_counts_as_shared() -> None:
    assert visibility_in(None) is SHARED
    assert visibility_in({"history_visibility": ["joined"]}) is SHARED
    assert visibility_in({"history_visibility": "joined"}) is JOINED


def test_membership_at_event_includes_its_own_change() -> None:
    assert membership_at(member_event(ALICE, "join"), ALICE, "invite") == "join"
    assert membership_at(member_event("@carol:here", "join"), ALICE, "invite") == "invite"
    assert membership_at(MESSAGE, ALICE, None) == "leave"


def test_server_sees_event_if_one_of_its_users_might() -> None:
    assert server_may_see(MESSAGE, SHARED, ())
    assert not server_may_see(MESSAGE, JOINED, ("leave", "invite"))
    assert server_may_see(MESSAGE, INVITED, ("leave", "invite"))
    assert server_may_see(visibility_event("shared"), JOINED, ())
