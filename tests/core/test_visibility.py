"""History visibility: who sees an event, and events that change the visibility themselves."""

import pytest

from hs.core.events.event import Event
from hs.core.ids import UserID
from hs.core.visibility import (
    HistoryVisibility,
    VisibilityContext,
    may_see,
    membership_at,
    server_may_see,
    visibility_in,
)
from tests.support.inputs.plain_events import plain_event

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
        (VisibilityContext(WORLD, "leave"), True),
        (VisibilityContext(WORLD, "ban"), True),
        (VisibilityContext(JOINED, "join"), True),
        (VisibilityContext(SHARED, "leave", joined_since=True), True),
        (VisibilityContext(SHARED, "leave"), False),
        (VisibilityContext(SHARED, "invite"), False),
        (VisibilityContext(INVITED, "invite"), True),
        (VisibilityContext(INVITED, "leave", joined_since=True), False),
        (VisibilityContext(JOINED, "invite", joined_since=True), False),
    ],
)
def test_visibility_of_message_by_membership_at_event(
    view: VisibilityContext, expected: bool
) -> None:
    assert may_see(MESSAGE, ALICE, view) is expected


@pytest.mark.parametrize(("before", "after"), [(WORLD, "joined"), (JOINED, "world_readable")])
def test_visibility_change_is_seen_under_old_or_new_setting(
    before: HistoryVisibility, after: str
) -> None:
    assert may_see(visibility_event(after), ALICE, VisibilityContext(before, "leave"))
    assert not may_see(visibility_event("joined"), ALICE, VisibilityContext(INVITED, "leave"))


def test_user_sees_own_membership_changes_only() -> None:
    assert may_see(member_event(ALICE, "join"), ALICE, VisibilityContext(JOINED, "leave"))
    assert may_see(member_event(ALICE, "ban"), ALICE, VisibilityContext(JOINED, "join"))
    assert not may_see(
        member_event("@carol:here", "join"), ALICE, VisibilityContext(JOINED, "leave")
    )


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
