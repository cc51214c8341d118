"""History visibility: who sees what, and what changes with the event itself."""

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


def setting(value: str) -> Event:
    content = {"history_visibility": value}
    return plain_event("m.room.history_visibility", "@bob:here", content, state_key="")


def member(user_id: str, membership: str) -> Event:
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
def test_messages_are_seen_by_the_rules_at_the_event(view: Viewpoint, expected: bool) -> None:
    assert may_see(MESSAGE, ALICE, view) is expected


@pytest.mark.parametrize(("before", "after"), [(WORLD, "joined"), (JOINED, "world_readable")])
def test_a_change_of_the_setting_is_seen_by_either(before: HistoryVisibility, after: str) -> None:
    assert may_see(setting(after), ALICE, Viewpoint(before, "leave"))
    assert not may_see(setting("joined"), ALICE, Viewpoint(INVITED, "leave"))


def test_users_see_their_own_joins_and_leaves_but_not_those_of_others() -> None:
    assert may_see(member(ALICE, "join"), ALICE, Viewpoint(JOINED, "leave"))
    assert may_see(member(ALICE, "ban"), ALICE, Viewpoint(JOINED, "join"))
    assert not may_see(member("@carol:here", "join"), ALICE, Viewpoint(JOINED, "leave"))


def test_what_is_not_understood_counts_as_shared() -> None:
    assert visibility_in(None) is SHARED
    assert visibility_in({"history_visibility": ["joined"]}) is SHARED
    assert visibility_in({"history_visibility": "joined"}) is JOINED


def test_membership_at_an_event_includes_what_the_event_changes() -> None:
    assert membership_at(member(ALICE, "join"), ALICE, "invite") == "join"
    assert membership_at(member("@carol:here", "join"), ALICE, "invite") == "invite"
    assert membership_at(MESSAGE, ALICE, None) == "leave"


def test_servers_get_what_one_of_their_users_might_see() -> None:
    assert server_may_see(MESSAGE, SHARED, ())
    assert not server_may_see(MESSAGE, JOINED, ("leave", "invite"))
    assert server_may_see(MESSAGE, INVITED, ("leave", "invite"))
    assert server_may_see(setting("shared"), JOINED, ())
