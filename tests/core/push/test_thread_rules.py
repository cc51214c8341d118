"""Push rules of threads: subscribers are notified of all messages, others only of mentions."""

from collections.abc import Set as AbstractSet

import pytest

from hs.core.errors import InvalidParam
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.defaults import PushFeatures, default_rules
from hs.core.push.editing import parse_kind, parse_rule
from hs.core.push.evaluate import compile_ruleset, evaluate, evaluate_for_all
from hs.core.push.facts import EventFacts, SenderPower, UserFacts
from hs.core.push.rules import NO_USER_RULES, PushRule, RuleKind, UserRules, full_ruleset
from hs.core.push.wire import render_ruleset

ALICE, BOB, CAROL = (UserID(f"@{name}:test") for name in ("alice", "bob", "carol"))
DEFAULTS = default_rules(PushFeatures(threads=True))
MENTION = {"m.mentions": {"user_ids": [BOB]}}


def facts(subscribers: AbstractSet[UserID] | None, **content: object) -> EventFacts:
    properties = {"type": "m.room.message", "content": {"body": "hello", **content}}
    return EventFacts(
        event_id=EventID("$e"),
        room_id=RoomID("!r:test"),
        sender=CAROL,
        properties=properties,
        member_count=5,
        power=lambda: SenderPower(0, {}),
        subscribers=subscribers,
    )


@pytest.mark.parametrize(
    ("event", "rule_id"),
    [
        (facts(None), ".m.rule.message"),
        (facts({BOB}), ".io.element.msc4306.rule.subscribed_thread"),
        (facts({ALICE}), ".io.element.msc4306.rule.unsubscribed_thread"),
        (facts(frozenset(), **MENTION), ".m.rule.is_user_mention"),
    ],
)
def test_thread_rules_match_messages_in_threads(event: EventFacts, rule_id: str) -> None:
    assert evaluate(compile_ruleset(DEFAULTS), event, UserFacts(BOB)).rule_id == rule_id


def test_subscribed_threads_notify_in_a_muted_room() -> None:
    mute = PushRule(RuleKind.ROOM, "!r:test", ())
    muted = compile_ruleset(full_ruleset(UserRules((mute,)), DEFAULTS))

    assert evaluate(muted, facts({BOB}), UserFacts(BOB)).notify
    assert not evaluate(muted, facts(None), UserFacts(BOB)).notify


@pytest.mark.parametrize("subscribers", [None, frozenset(), {ALICE}, {ALICE, BOB}])
def test_users_evaluated_together_have_the_same_outcomes_as_alone(
    subscribers: AbstractSet[UserID] | None,
) -> None:
    compiled = compile_ruleset(DEFAULTS)
    event = facts(subscribers, **MENTION)
    users = {ALICE, BOB, UserID("@dave:test")}

    together = evaluate_for_all(compiled, event, users, lambda user_id: None)

    for user_id in users:
        assert together.of(user_id) == evaluate(compiled, event, UserFacts(user_id))


def test_postcontent_is_shown_only_with_rules_and_cannot_be_set() -> None:
    with_threads = render_ruleset(full_ruleset(NO_USER_RULES, DEFAULTS), ALICE)["global"]
    without = render_ruleset(full_ruleset(NO_USER_RULES, default_rules()), ALICE)["global"]

    assert len(with_threads["postcontent"]) == 2
    assert "postcontent" not in without
    with pytest.raises(InvalidParam):
        parse_rule(parse_kind("postcontent"), "own", {"actions": [], "conditions": []})
