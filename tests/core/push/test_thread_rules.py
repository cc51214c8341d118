"""Rules of threads: who subscribes hears of everything in them, others only of mentions."""

from collections.abc import Set as AbstractSet

import pytest

from hs.core.errors import InvalidParam
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.defaults import PushFeatures, default_rules
from hs.core.push.editing import parse_kind, parse_rule
from hs.core.push.evaluate import compile_ruleset, evaluate, evaluate_for_all
from hs.core.push.facts import EventFacts, UserFacts
from hs.core.push.rules import NO_USER_RULES, PushRule, RuleKind, UserRules, full_ruleset
from hs.core.push.wire import render_ruleset

ALICE, BOB, CAROL = (UserID(f"@{name}:test") for name in ("alice", "bob", "carol"))
DEFAULTS = default_rules(PushFeatures(threads=True))
MENTION = {"m.mentions": {"user_ids": [BOB]}}


def facts(subscribers: AbstractSet[UserID] | None, **content: object) -> EventFacts:
    properties = {"type": "m.room.message", "content": {"body": "hello", **content}}
    return EventFacts(EventID("$e"), RoomID("!r:test"), CAROL, properties, 5, 0, {}, subscribers)


@pytest.mark.parametrize(
    ("event", "rule_id"),
    [
        (facts(None), ".m.rule.message"),
        (facts({BOB}), ".io.element.msc4306.rule.subscribed_thread"),
        (facts({ALICE}), ".io.element.msc4306.rule.unsubscribed_thread"),
        (facts(frozenset(), **MENTION), ".m.rule.is_user_mention"),
    ],
)
def test_rules_that_a_message_meets(event: EventFacts, rule_id: str) -> None:
    assert evaluate(compile_ruleset(DEFAULTS), event, UserFacts(BOB)).rule_id == rule_id


def test_a_muted_room_is_heard_of_in_threads_one_subscribes_to() -> None:
    mute = PushRule(RuleKind.ROOM, "!r:test", ())
    muted = compile_ruleset(full_ruleset(UserRules((mute,)), DEFAULTS))

    assert evaluate(muted, facts({BOB}), UserFacts(BOB)).notify
    assert not evaluate(muted, facts(None), UserFacts(BOB)).notify


@pytest.mark.parametrize("subscribers", [None, frozenset(), {ALICE}, {ALICE, BOB}])
def test_many_get_what_each_would_get_alone(subscribers: AbstractSet[UserID] | None) -> None:
    compiled = compile_ruleset(DEFAULTS)
    event = facts(subscribers, **MENTION)
    users = [UserFacts(one) for one in (ALICE, BOB, UserID("@dave:test"))]

    together = evaluate_for_all(compiled, event, users)

    for user in users:
        assert together.of(user.user_id) == evaluate(compiled, event, user)


def test_clients_see_the_kind_only_where_it_has_rules_and_cannot_add_any() -> None:
    with_threads = render_ruleset(full_ruleset(NO_USER_RULES, DEFAULTS), ALICE)["global"]
    without = render_ruleset(full_ruleset(NO_USER_RULES, default_rules()), ALICE)["global"]

    assert len(with_threads["postcontent"]) == 2
    assert "postcontent" not in without
    with pytest.raises(InvalidParam):
        parse_rule(parse_kind("postcontent"), "own", {"actions": [], "conditions": []})
