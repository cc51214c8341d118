"""Indexed push rules: users have the outcomes that all of their rules would have."""

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.ids import EventID, RoomID, UserID
from hs.core.push import evaluate as evaluation
from hs.core.push.defaults import default_rules
from hs.core.push.evaluate import Outcome, compile_ruleset, evaluate
from hs.core.push.facts import EventFacts, SenderPower, UserFacts
from hs.core.push.rules import NO_USER_RULES, DefaultChange, PushRule, RuleKind, UserRules
from hs.core.push.rules import full_ruleset as full
from hs.core.push.wire import decode_user_rules, encode_user_rules
from hs.services.push.evaluation.rule_index import RuleIndex

DEFAULTS = default_rules()
ROOMS = ("!Tea:here", "!coffee:here")
USERS = tuple(UserID(f"@{name}:here") for name in ("alice", "Bob", "carol", "dan"))
WORDS = ("tea", "TEA", "steam", "t", "Kelvin", "ΑΣ", "ας", "İx", "お茶", "お", "@alice:here", "")
TYPES = ("m.room.message", "M.room.message", "m.room.member", "m.reaction")
PATHS = (
    "room_id", "sender", "type", "state_key", "content.body", "content.msgtype", "content.missing",
)  # fmt: skip
SIGNS = (" ", "*", "?", "", "**", "-")

texts = st.lists(st.sampled_from(WORDS + SIGNS + ROOMS + USERS + TYPES), max_size=4).map("".join)
values = st.sampled_from(WORDS + ROOMS + USERS + TYPES)
actions = st.sampled_from([(), ("notify",), ("notify", {"set_tweak": "highlight"})])
conditions = st.one_of(
    st.builds(
        lambda key, pattern: {"kind": "event_match", "key": key, "pattern": pattern},
        st.sampled_from(PATHS),
        texts | values,
    ),
    st.builds(
        lambda key, value: {"kind": "event_property_is", "key": key, "value": value},
        st.sampled_from(PATHS),
        values | st.sampled_from([None, True, 1]),
    ),
    st.sampled_from(
        [
            {"kind": "room_member_count", "is": "2"},
            {"kind": "contains_display_name"},
            {"kind": "unknown"},
            {"kind": "event_match", "key": "type"},
        ]
    ),
)


@st.composite
def push_rules(draw: st.DrawFn) -> PushRule:
    kind = draw(st.sampled_from([kind for kind in RuleKind if kind is not RuleKind.POSTCONTENT]))
    return PushRule(
        kind,
        draw(values) if kind in (RuleKind.ROOM, RuleKind.SENDER) else draw(texts),
        draw(actions),
        conditions=tuple(draw(st.lists(conditions, max_size=3)))
        if kind in (RuleKind.OVERRIDE, RuleKind.UNDERRIDE)
        else None,
        pattern=draw(texts) if kind is RuleKind.CONTENT else None,
        enabled=draw(st.sampled_from([True, True, False])),
    )


rulesets = st.builds(
    UserRules,
    st.lists(push_rules(), max_size=4).map(tuple),
    st.dictionaries(
        st.sampled_from([".m.rule.master", ".m.rule.message", ".m.rule.reaction"]),
        st.builds(DefaultChange, st.booleans(), st.none() | actions),
        max_size=2,
    ),
)


@st.composite
def event_facts(draw: st.DrawFn) -> EventFacts:
    sender = draw(st.sampled_from(USERS))
    content: dict[str, Any] = {"body": draw(st.one_of(texts, st.just(7)))}
    if draw(st.booleans()):
        content["msgtype"] = draw(st.sampled_from(["m.text", "m.notice", *WORDS]))
    if draw(st.booleans()):
        content["m.mentions"] = {"user_ids": draw(st.lists(st.sampled_from(USERS), max_size=2))}
    pdu: dict[str, Any] = {"type": draw(st.sampled_from(TYPES)), "sender": sender}
    if draw(st.booleans()):
        pdu["state_key"] = draw(values)
    return EventFacts(
        event_id=EventID("$1"),
        room_id=RoomID(draw(st.sampled_from(ROOMS))),
        sender=sender,
        properties={**pdu, "content": content},
        member_count=draw(st.integers(2, 3)),
        power=lambda: SenderPower(0, {}),
        size_bytes=draw(st.sampled_from([10, 65_536])),
    )


def index_of(rules: Mapping[UserID, UserRules]) -> RuleIndex:
    index = RuleIndex(lambda encoded: encoded)
    for user_id, ruleset in rules.items():
        index.add(user_id, ruleset, encode_user_rules(ruleset))
    return index


def outcome(rules: UserRules, facts: EventFacts, user_id: UserID) -> Outcome:
    return evaluate(compile_ruleset(full(rules, DEFAULTS)), facts, UserFacts(user_id, "tea"))


def indexed_rules(
    index: RuleIndex, facts: EventFacts, rules: Mapping[UserID, UserRules]
) -> dict[UserID, UserRules]:
    """Return the rules that are evaluated for each user."""
    found = index.rulesets(facts, set(USERS), lambda user_id: encode_user_rules(rules[user_id]))
    indexed = dict.fromkeys(USERS, NO_USER_RULES)
    return indexed | {user_id: decode_user_rules(ruleset) for user_id, ruleset in found.items()}


@given(st.dictionaries(st.sampled_from(USERS), rulesets), st.lists(event_facts(), max_size=5))
def test_indexed_rules_have_the_outcome_of_all_rules(
    rules: dict[UserID, UserRules], events: list[EventFacts]
) -> None:
    index = index_of(rules)

    for facts in events:
        for user_id, indexed in indexed_rules(index, facts, rules).items():
            expected = outcome(rules.get(user_id, NO_USER_RULES), facts, user_id)
            assert outcome(indexed, facts, user_id) == expected


@given(rulesets, st.lists(event_facts(), max_size=5))
def test_rulesets_with_more_patterns_than_are_evaluated_have_the_same_outcome(
    rules: UserRules, events: list[EventFacts]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "MAX_EFFORT", 2 * 65_536)
        patch.setattr(evaluation, "LIGHT_EFFORT", 2)
        index = index_of({USERS[0]: rules})

        for facts in events:
            indexed = indexed_rules(index, facts, {USERS[0]: rules})[USERS[0]]
            assert outcome(indexed, facts, USERS[0]) == outcome(rules, facts, USERS[0])


@given(rulesets, event_facts())
def test_rules_for_the_type_of_an_event_have_the_outcome_of_all_rules(
    rules: UserRules, facts: EventFacts
) -> None:
    compiled = compile_ruleset(full(rules, DEFAULTS))
    all_rules = attrs.evolve(
        compiled,
        by_type=dict.fromkeys(compiled.by_type, compiled.rules),
        untyped=compiled.rules,
    )

    for user_id in USERS:
        user = UserFacts(user_id, "tea")
        assert evaluate(compiled, facts, user) == evaluate(all_rules, facts, user)


@given(st.dictionaries(st.sampled_from(USERS), rulesets), st.data())
def test_removed_rules_leave_nothing_behind(
    rules: dict[UserID, UserRules], data: st.DataObject
) -> None:
    index = index_of(rules)

    for user_id in data.draw(st.permutations(list(rules))):
        index.remove(user_id, rules[user_id])

    assert not any(index._triggered.values())
    assert not index._always


def test_rules_for_other_rooms_senders_and_words_are_not_evaluated() -> None:
    others = {
        UserID(f"@user{n}:here"): UserRules(
            (
                PushRule(RuleKind.ROOM, f"!room{n}:here", ()),
                PushRule(RuleKind.SENDER, f"@other{n}:here", ()),
                PushRule(RuleKind.CONTENT, "word", ("notify",), pattern=f"word{n}"),
                PushRule(
                    RuleKind.OVERRIDE,
                    "room",
                    (),
                    ({"kind": "event_match", "key": "room_id", "pattern": f"!room{n}:here"},),
                ),
            )
        )
        for n in range(100)
    }
    facts = EventFacts(
        event_id=EventID("$1"),
        room_id=RoomID("!room7:here"),
        sender=USERS[0],
        properties={"type": "m.room.message", "sender": USERS[0], "content": {"body": "tea"}},
        member_count=100,
        power=lambda: SenderPower(0, {}),
    )

    found = index_of(others).rulesets(facts, set(others), lambda user_id: b"")

    assert list(found) == ["@user7:here"]
    assert [rule.kind for rule in decode_user_rules(found[UserID("@user7:here")]).rules] == [
        RuleKind.ROOM,
        RuleKind.OVERRIDE,
    ]
