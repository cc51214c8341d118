"""Push rules: which rule matches an event, and how users change and see their rules."""

import time
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from hs.core.errors import InvalidParam, MatrixError, MissingParam, NotFound, Unknown
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.conditions import compile_condition
from hs.core.push.defaults import PushFeatures, default_rules
from hs.core.push.editing import (
    copy_room_rules,
    delete_rule,
    find_rule,
    parse_actions,
    parse_enabled,
    parse_kind,
    parse_rule,
    put_rule,
    set_actions,
    set_enabled,
)
from hs.core.push.evaluate import (
    NOTHING,
    Outcome,
    compile_ruleset,
    evaluate,
    evaluate_for_all,
    outcome_of,
)
from hs.core.push.facts import EventFacts, SenderPower, UserFacts
from hs.core.push.rules import NO_USER_RULES, PushRule, RuleKind, UserRules, full_ruleset
from hs.core.push.wire import (
    decode_user_rules,
    encode_user_rules,
    render_rule,
    render_ruleset,
)

ALICE = UserID("@alice:here")
BOB = UserID("@bob:here")
CAROL = UserID("@carol:here")
DEFAULTS = default_rules()


def facts(
    content: Mapping[str, Any],
    *,
    type: str = "m.room.message",
    sender: UserID = BOB,
    state_key: str | None = None,
    members: int = 3,
    power: float = 0,
    levels: Mapping[str, int] | None = None,
    replaced: Mapping[str, Any] | None = None,
) -> EventFacts:
    pdu: dict[str, Any] = {"type": type, "sender": sender, "content": content}
    if state_key is not None:
        pdu["state_key"] = state_key
    return EventFacts(
        event_id=EventID("$1"),
        room_id=RoomID("!room:here"),
        sender=sender,
        properties=pdu,
        member_count=members,
        power=lambda: SenderPower(power, levels or {}),
        replaced=replaced,
    )


def outcome(event: EventFacts, user: UserRules = NO_USER_RULES, name: str | None = None) -> Outcome:
    compiled = compile_ruleset(full_ruleset(user, DEFAULTS))
    return evaluate(compiled, event, UserFacts(ALICE, name))


def with_rule(kind: RuleKind, rule_id: str, body: Mapping[str, Any]) -> UserRules:
    return put_rule(NO_USER_RULES, parse_rule(kind, rule_id, body))


CALL = "org.matrix.msc3401.call"
ROOM_CALL = ".org.matrix.msc3914.rule.room.call"
TEXT = {"msgtype": "m.text", "body": "It's time for tea"}


@pytest.mark.parametrize(
    ("event", "rule_id"),
    [
        (facts(TEXT), ".m.rule.message"),
        (facts(TEXT, members=2), ".m.rule.room_one_to_one"),
        (facts({}, type="m.room.encrypted"), ".m.rule.encrypted"),
        (facts({}, type="m.room.encrypted", members=2), ".m.rule.encrypted_room_one_to_one"),
        (facts({"msgtype": "m.notice", "body": "x"}), ".m.rule.suppress_notices"),
        (
            facts({"membership": "invite"}, type="m.room.member", state_key=ALICE),
            ".m.rule.invite_for_me",
        ),
        (
            facts({"membership": "invite"}, type="m.room.member", state_key=CAROL),
            ".m.rule.member_event",
        ),
        (facts({**TEXT, "m.mentions": {"user_ids": [ALICE]}}), ".m.rule.is_user_mention"),
        (facts({**TEXT, "m.mentions": {"user_ids": [CAROL]}}), ".m.rule.message"),
        (facts({**TEXT, "m.mentions": {"room": True}}), ".m.rule.message"),
        (facts({**TEXT, "m.mentions": {"room": True}}, power=50), ".m.rule.is_room_mention"),
        (
            facts({**TEXT, "m.mentions": {"room": True}}, power=50, levels={"room": 60}),
            ".m.rule.message",
        ),
        (
            facts({**TEXT, "m.mentions": {"room": True}}, power=float("inf"), levels={"room": 99}),
            ".m.rule.is_room_mention",
        ),
        (facts({**TEXT, "m.mentions": {"room": 1}}, power=50), ".m.rule.message"),
        (facts({}, type="m.room.tombstone", state_key=""), ".m.rule.tombstone"),
        (facts({}, type="m.room.tombstone"), None),
        (facts({}, type="m.reaction"), ".m.rule.reaction"),
        (facts({}, type="m.room.server_acl", state_key=""), ".m.rule.room.server_acl"),
        (facts({**TEXT, "m.relates_to": {"rel_type": "m.replace"}}), ".m.rule.suppress_edits"),
        (facts({}, type="m.call.invite"), ".m.rule.call"),
        (facts({"m.intent": "m.ring"}, type=CALL), ROOM_CALL),
        (facts({"m.intent": "m.prompt"}, type=CALL, state_key="x"), ROOM_CALL),
        (facts({"m.intent": "m.room"}, type=CALL), None),
        (facts({"m.intent": "m.ring", "m.terminated": "ended"}, type=CALL), None),
        (facts({"m.intent": "m.ring"}, type=CALL, replaced={"m.intent": "m.ring"}), None),
        (facts({"m.intent": "m.ring"}, type=CALL, replaced={"m.terminated": 1}), ROOM_CALL),
        (
            facts({}, type="org.matrix.msc3381.poll.start", members=2),
            ".org.matrix.msc3930.rule.poll_start_one_to_one",
        ),
        (
            facts({}, type="org.matrix.msc3381.poll.response"),
            ".org.matrix.msc3930.rule.poll_response",
        ),
        (facts({}, type="m.room.topic", state_key=""), None),
    ],
)
def test_default_rules_match_their_events(event: EventFacts, rule_id: str | None) -> None:
    assert outcome(event).rule_id == rule_id


def test_users_are_not_notified_of_their_own_events() -> None:
    assert outcome(facts(TEXT, sender=ALICE)) is NOTHING


def test_actions_become_the_outcome() -> None:
    mention = outcome(facts({**TEXT, "m.mentions": {"user_ids": [ALICE]}}))

    assert (mention.notify, mention.highlight) == (True, True)
    assert mention.tweaks == {"sound": "default", "highlight": True}


def test_master_rule_comes_before_the_users_own() -> None:
    user = with_rule(RuleKind.OVERRIDE, "mine", {"actions": ["notify"], "conditions": []})
    user = set_enabled(user, DEFAULTS, RuleKind.OVERRIDE, ".m.rule.master", True)

    assert outcome(facts(TEXT), user).rule_id == ".m.rule.master"
    assert not outcome(facts(TEXT), user).notify


@pytest.mark.parametrize(
    ("kind", "rule_id", "body"),
    [
        (RuleKind.CONTENT, "tea", {"actions": [], "pattern": "TE?"}),
        (RuleKind.ROOM, "!room:here", {"actions": []}),
        (RuleKind.SENDER, BOB, {"actions": []}),
        (RuleKind.OVERRIDE, "all", {"actions": [], "conditions": []}),
        (
            RuleKind.UNDERRIDE,
            "few",
            {"actions": [], "conditions": [{"kind": "room_member_count", "is": "<=3"}]},
        ),
    ],
)
def test_own_rules_of_each_kind_come_before_the_defaults(
    kind: RuleKind, rule_id: str, body: dict[str, Any]
) -> None:
    assert outcome(facts(TEXT), with_rule(kind, rule_id, body)).rule_id == rule_id


@pytest.mark.parametrize(
    "condition",
    [
        {"kind": "org.example.unknown"},
        {"kind": "event_match", "key": "content.body"},
        {"kind": "event_match", "key": "content.missing", "pattern": "*"},
        {"kind": "event_property_is", "key": "content.missing", "value": None},
        {"kind": "event_property_is", "key": "content.body"},
        {"kind": "event_property_contains", "key": "content.body", "value": "It"},
        {"kind": "room_member_count", "is": "=3"},
        {"kind": "room_member_count", "is": "2"},
        {"kind": "sender_notification_permission"},
        {"kind": "contains_display_name"},
    ],
)
def test_rule_with_an_invalid_condition_never_matches(condition: dict[str, Any]) -> None:
    user = with_rule(RuleKind.OVERRIDE, "mine", {"actions": [], "conditions": [condition]})

    assert outcome(facts(TEXT), user).rule_id == ".m.rule.message"


@pytest.mark.parametrize(
    ("value", "property_value", "expected"),
    [(True, True, True), (True, 1, False), (1, 1, True), (1, True, False), (1, "1", False)],
)
def test_values_are_compared_without_conversion(
    value: object, property_value: object, expected: bool
) -> None:
    condition = {"kind": "event_property_is", "key": "content.x", "value": value}
    user = with_rule(RuleKind.OVERRIDE, "mine", {"actions": [], "conditions": [condition]})

    assert (outcome(facts({"x": property_value}), user).rule_id == "mine") is expected


def test_conditions_with_values_of_different_types_differ() -> None:
    condition = {"kind": "event_property_is", "key": "content.x"}

    assert compile_condition({**condition, "value": True}) != compile_condition(
        {**condition, "value": 1}
    )


def test_contains_display_name_is_honoured_in_own_rules() -> None:
    conditions = [{"kind": "contains_display_name"}]
    user = with_rule(RuleKind.OVERRIDE, "me", {"actions": ["notify"], "conditions": conditions})

    assert outcome(facts({"body": "hey Al*ce!"}), user, "al*ce").rule_id == "me"
    assert outcome(facts({"body": "malice"}), user, "alice").rule_id != "me"


def test_users_evaluated_together_have_the_same_outcomes_as_alone() -> None:
    named = {"kind": "contains_display_name"}
    own = with_rule(RuleKind.OVERRIDE, "me", {"actions": ["notify"], "conditions": [named]})
    users = {ALICE: "alice", BOB: "bob", CAROL: None}
    events = [
        facts({**TEXT, "m.mentions": {"user_ids": [ALICE, BOB, 7]}}),
        facts({"body": "alice and bob"}),
        facts({"membership": "invite"}, type="m.room.member", state_key=CAROL),
    ]

    for rules in (NO_USER_RULES, own):
        compiled = compile_ruleset(full_ruleset(rules, DEFAULTS))
        for event in events:
            together = evaluate_for_all(compiled, event, users.keys(), users.get)
            for user_id, name in users.items():
                alone = evaluate(compiled, event, UserFacts(user_id, name))
                assert together.of(user_id) == alone


def test_only_named_users_are_evaluated_one_by_one() -> None:
    compiled = compile_ruleset(DEFAULTS)
    users = {UserID(f"@u{n}:here") for n in range(100)}
    event = facts({**TEXT, "m.mentions": {"user_ids": ["@u7:here"]}})

    outcomes = evaluate_for_all(compiled, event, users, lambda user_id: None)

    assert set(outcomes.special) == {"@u7:here"}
    assert outcomes.ordinary.rule_id == ".m.rule.message"


def test_new_rules_come_first_unless_put_before_or_after_another() -> None:
    user = NO_USER_RULES
    body = {"actions": ["notify"], "pattern": "x"}
    for rule_id in ("a", "b"):
        user = put_rule(user, parse_rule(RuleKind.CONTENT, rule_id, body))
    user = put_rule(user, parse_rule(RuleKind.CONTENT, "c", body), after="b")
    user = put_rule(user, parse_rule(RuleKind.CONTENT, "d", body), before="a", after="b")

    assert [rule.rule_id for rule in user.rules] == ["b", "c", "d", "a"]


def test_changed_rule_keeps_its_place_and_whether_it_is_enabled() -> None:
    user = NO_USER_RULES
    for rule_id in ("a", "b"):
        user = put_rule(
            user, parse_rule(RuleKind.CONTENT, rule_id, {"actions": [], "pattern": "x"})
        )
    user = set_enabled(user, DEFAULTS, RuleKind.CONTENT, "a", False)

    user = put_rule(user, parse_rule(RuleKind.CONTENT, "a", {"actions": [], "pattern": "y"}))

    assert [(rule.rule_id, rule.pattern, rule.enabled) for rule in user.rules] == [
        ("b", "x", True),
        ("a", "y", False),
    ]


def test_rule_cannot_be_put_before_a_default_or_missing_rule() -> None:
    rule = parse_rule(RuleKind.UNDERRIDE, "mine", {"actions": [], "conditions": []})

    with pytest.raises(Unknown, match="not found"):
        put_rule(NO_USER_RULES, rule, before=".m.rule.message")


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "error"),
    [
        ("content", ".dot", {"actions": [], "pattern": "x"}, InvalidParam),
        ("content", "a/b", {"actions": [], "pattern": "x"}, InvalidParam),
        ("content", "a\\b", {"actions": [], "pattern": "x"}, InvalidParam),
        ("content", "", {"actions": [], "pattern": "x"}, InvalidParam),
        ("content", "a", {"actions": []}, MissingParam),
        ("content", "a", {"actions": [], "pattern": 1}, InvalidParam),
        ("content", "a", {"actions": [], "pattern": "x" * 600}, InvalidParam),
        ("content", "a", {"pattern": "x"}, MissingParam),
        ("content", "a", {"actions": ["stir"], "pattern": "x"}, InvalidParam),
        ("content", "a", {"actions": [{}], "pattern": "x"}, InvalidParam),
        ("underride", "a", {"conditions": []}, MissingParam),
        ("override", "a", {"actions": [], "conditions": [{}]}, InvalidParam),
        ("override", "a", {"actions": [], "conditions": ["x"]}, InvalidParam),
        ("nonsense", "a", {"actions": []}, InvalidParam),
    ],
)
def test_malformed_rules_are_rejected(
    kind: str, rule_id: str, body: dict[str, Any], error: type[MatrixError]
) -> None:
    with pytest.raises(error):
        parse_rule(parse_kind(kind), rule_id, body)


def test_historical_actions_are_accepted_and_have_no_effect() -> None:
    actions = parse_actions({"actions": ["notify", "dont_notify", "coalesce"]})
    silent = PushRule(RuleKind.ROOM, "!room:x", ("dont_notify",))

    assert actions == ("notify", "dont_notify", "coalesce")
    assert outcome_of(PushRule(RuleKind.ROOM, "!room:x", actions)).actions == ("notify",)
    assert outcome_of(silent) == outcome_of(attrs.evolve(silent, actions=()))


@pytest.mark.parametrize("body", [{}, {"enabled": "true"}, {"enabled": 1}])
def test_enabled_must_be_a_boolean(body: dict[str, Any]) -> None:
    with pytest.raises(MatrixError):
        parse_enabled(body)


def test_default_rules_can_be_changed_but_not_deleted() -> None:
    user = set_actions(NO_USER_RULES, DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.message", ())

    assert not outcome(facts(TEXT), user).notify
    assert find_rule(user, DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.message").actions == ()
    with pytest.raises(NotFound):
        delete_rule(user, RuleKind.UNDERRIDE, ".m.rule.message")
    with pytest.raises(NotFound):
        set_enabled(user, DEFAULTS, RuleKind.OVERRIDE, ".m.rule.message", False)


def test_default_rule_changed_back_is_not_stored() -> None:
    user = set_enabled(NO_USER_RULES, DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.message", False)
    assert encode_user_rules(user) != encode_user_rules(NO_USER_RULES)

    user = set_enabled(user, DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.message", True)

    assert user == NO_USER_RULES


def test_rules_are_decoded_as_they_were_encoded() -> None:
    user = with_rule(RuleKind.OVERRIDE, "a", {"actions": ["notify"], "conditions": []})
    user = put_rule(
        user, parse_rule(RuleKind.CONTENT, "b", {"actions": [{"set_tweak": "x"}], "pattern": "p"})
    )
    user = set_enabled(user, DEFAULTS, RuleKind.CONTENT, "b", False)
    user = set_actions(user, DEFAULTS, RuleKind.OVERRIDE, ".m.rule.master", ("notify",))

    assert decode_user_rules(encode_user_rules(user)) == user


def test_clients_see_their_own_user_id_in_default_rules() -> None:
    rules = full_ruleset(NO_USER_RULES, default_rules(PushFeatures(encrypted_event=True)))

    rendered = render_ruleset(rules, ALICE)["global"]

    assert list(rendered) == ["override", "content", "room", "sender", "underride"]
    overrides = {rule["rule_id"]: rule for rule in rendered["override"]}
    assert list(overrides)[:2] == [".m.rule.master", ".org.matrix.msc4028.encrypted_event"]
    assert overrides[".m.rule.is_user_mention"]["conditions"][0]["value"] == ALICE
    assert overrides[".m.rule.invite_for_me"]["conditions"][2]["pattern"] == ALICE
    assert "placeholder" not in str(rendered)


def test_content_rule_is_rendered_with_its_pattern() -> None:
    rule = parse_rule(RuleKind.CONTENT, "cake", {"actions": ["notify"], "pattern": "cake*lie"})

    assert render_rule(rule, ALICE) == {
        "rule_id": "cake",
        "default": False,
        "enabled": True,
        "actions": ["notify"],
        "pattern": "cake*lie",
    }


def test_room_rules_are_copied_by_a_room_upgrade() -> None:
    user = with_rule(RuleKind.ROOM, "!old:here", {"actions": []})

    copied = copy_room_rules(user, "!old:here", "!new:here")

    assert [rule.rule_id for rule in copied.rules] == ["!new:here", "!old:here"]
    assert copy_room_rules(copied, "!old:here", "!new:here") == copied


def ten_thousand(pattern: str) -> UserRules:
    return UserRules(
        tuple(
            PushRule(RuleKind.CONTENT, str(n), ("notify",), pattern=f"{pattern}{n}")
            for n in range(10_000)
        )
    )


@pytest.mark.parametrize("pattern", ["aa", "?" * 300 + "b", "*a*b*c*"])
def test_ten_thousand_patterns_are_evaluated_within_bounds(pattern: str) -> None:
    compiled = compile_ruleset(full_ruleset(ten_thousand(pattern), DEFAULTS))
    event = facts({**TEXT, "body": "a" * 60_000})

    began_s = time.process_time()
    matching = evaluate(compiled, event, UserFacts(ALICE))

    # To match all of them would take minutes.
    assert time.process_time() - began_s < 20
    assert matching.rule_id == ".m.rule.message"


def test_thousands_of_keywords_match_ordinary_messages() -> None:
    event = attrs.evolve(facts({**TEXT, "body": "hello word9999"}), size_bytes=500)

    assert outcome(event, ten_thousand("word")).rule_id == "9999"
