"""Users' own push rules by what an event must have for them to match.

Of a user's rules only those are evaluated that may match the event (`hs.core.push.triggers`), as a
ruleset of their own; users whose rulesets for the event are equal are evaluated together. A user
none of whose rules may match has the outcome of the default rules, with the user's changes to them.

Rulesets are encoded, and equal encodings are one object.
"""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

import attrs

from hs.core.ids import UserID
from hs.core.property_paths import PropertyPath
from hs.core.push.evaluate import is_light
from hs.core.push.facts import EventFacts
from hs.core.push.rules import PushRule, UserRules
from hs.core.push.triggers import Trigger, texts_in, trigger_of
from hs.core.push.wire import encode_user_rules

_Rulesets = dict[UserID, bytes]


@attrs.frozen(eq=False)
class RuleIndex:
    """The rules of some users by trigger; `_shared` returns one object for equal encodings."""

    _shared: Callable[[bytes], bytes]
    _triggered: dict[PropertyPath, dict[str, _Rulesets]] = attrs.Factory(dict)
    _always: _Rulesets = attrs.Factory(dict)  # of users with changes to default rules

    def add(self, user_id: UserID, rules: UserRules, encoded: bytes) -> None:
        """Add a user's rules; `encoded` are the same."""
        if rules.changes:
            changes = UserRules(changes=rules.changes)
            self._always[user_id] = self._shared(encode_user_rules(changes))
        is_whole = not is_light(rules.rules)
        for trigger, triggered in _by_trigger(rules).items():
            # With so many patterns it depends on all of them which of them are evaluated.
            ruleset = encoded if is_whole else encode_user_rules(triggered)
            by_text = self._triggered.setdefault(trigger.path, {})
            by_text.setdefault(trigger.text, {})[user_id] = self._shared(ruleset)

    def remove(self, user_id: UserID, rules: UserRules) -> None:
        """Remove a user's rules, as they were added."""
        self._always.pop(user_id, None)
        for trigger in _by_trigger(rules):
            by_text = self._triggered[trigger.path]
            rulesets = by_text[trigger.text]
            del rulesets[user_id]
            if not rulesets:
                del by_text[trigger.text]

    def rulesets(
        self, facts: EventFacts, users: AbstractSet[UserID], whole: Callable[[UserID], bytes]
    ) -> _Rulesets:
        """Return the rulesets for an event, of those users who do not have the default rules.

        `whole` returns all rules of a user.
        """
        found: _Rulesets = {}
        for rulesets in self._triggered_by(facts):
            for user_id in rulesets.keys() & users:
                # Rules with several triggers are to be checked in the user's order.
                found[user_id] = whole(user_id) if user_id in found else rulesets[user_id]
        if self._always:
            for user_id in self._always.keys() & users:
                found.setdefault(user_id, self._always[user_id])
        return found

    def _triggered_by(self, facts: EventFacts) -> Iterator[_Rulesets]:
        for path, by_text in self._triggered.items():
            for text in texts_in(facts, path, by_text):
                rulesets = by_text.get(text)
                if rulesets:
                    yield rulesets


def _by_trigger(rules: UserRules) -> dict[Trigger, UserRules]:
    by_trigger: dict[Trigger, list[PushRule]] = {}
    for rule in rules.rules:
        trigger = trigger_of(rule)
        if trigger is not None:
            by_trigger.setdefault(trigger, []).append(rule)
    return {
        trigger: UserRules(tuple(triggered), rules.changes)
        for trigger, triggered in by_trigger.items()
    }
