"""Which entries of a room's state a client asked for.

Patterns are pairs of type and state key. `*` stands for any type or any key, `$ME` for the user
who asks, and `$LAZY`, with m.room.member, for the members that the timeline needs.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, UserID

ANY: Final = "*"
ME: Final = "$ME"
LAZY: Final = "$LAZY"


@attrs.frozen
class RequiredState:
    """A set of patterns: single entries, whole types, keys of any type, or everything.

    With `lazy`, `everything` leaves out the members that are not asked for otherwise. What matches
    a pattern of `excluded`, whose halves may be ANY, is left out.
    """

    entries: frozenset[StateKey] = frozenset()
    types: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    everything: bool = False
    lazy: bool = False
    excluded: frozenset[StateKey] = frozenset()

    @property
    def has_wildcards(self) -> bool:
        """Tell whether the whole state must be looked at to find what matches."""
        return self.everything or bool(self.types) or bool(self.keys)

    @property
    def needs_all(self) -> bool:
        """Tell whether there are matches of any type."""
        return self.everything or bool(self.keys)

    def matches(self, key: StateKey) -> bool:
        """Tell whether an entry is asked for by a pattern, laziness aside."""
        if self.excluded and any(_within(key, one) for one in self.excluded):
            return False
        return self._includes(key)

    def _includes(self, key: StateKey) -> bool:
        if key in self.entries or key[0] in self.types or key[1] in self.keys:
            return True
        return self.everything and not (self.lazy and key[0] == event_types.MEMBER)

    def select(self, state: Mapping[StateKey, EventID]) -> Iterator[tuple[StateKey, EventID]]:
        """Give the entries of a state that match."""
        if self.has_wildcards:
            for key, event_id in state.items():
                if self.matches(key):
                    yield key, event_id
            return
        for key in self.entries:
            found = state.get(key)
            if found is not None and (not self.excluded or self.matches(key)):
                yield key, found

    def covers(self, other: "RequiredState") -> bool:
        """Tell whether whoever got this got all that the other asks for."""
        if self is other or self == other:
            return True
        if any(one not in other.excluded and other._touches(one) for one in self.excluded):
            return False
        if other.lazy and not self.lazy and event_types.MEMBER not in self.types:
            return False
        if self.everything and not self.lazy:
            return True
        if other.everything and not self.everything:
            return False
        return (
            other.types <= self.types
            and other.keys <= self.keys
            and all(self._includes(key) for key in other.entries)
        )

    def union(self, other: "RequiredState") -> "RequiredState":
        """Give what matches whatever either matches."""
        if self is other or self == other:
            return self
        types = self.types | other.types
        # Everything but lazy members, with everything and no laziness, is everything.
        if (self.everything and not self.lazy) or (other.everything and not other.lazy):
            types |= {event_types.MEMBER}
        return RequiredState(
            self.entries | other.entries,
            types,
            self.keys | other.keys,
            self.everything or other.everything,
            self.lazy or other.lazy,
            frozenset(
                [one for one in self.excluded if one in other.excluded or not other._touches(one)]
                + [one for one in other.excluded if not self._touches(one)]
            ),
        )

    def _touches(self, pattern: StateKey) -> bool:
        """Tell whether something asked for may match a pattern."""
        event_type, state_key = pattern
        if self.everything:
            return True
        if self.types and (event_type == ANY or event_type in self.types):
            return True
        if self.keys and (state_key == ANY or state_key in self.keys):
            return True
        return any(_within(key, pattern) for key in self.entries)

    def pairs(self) -> list[list[str]]:
        """Give the patterns as pairs, which `required_state` reads again."""
        pairs = [list(one) for one in sorted(self.entries)]
        pairs += [[one, ANY] for one in sorted(self.types)]
        pairs += [[ANY, one] for one in sorted(self.keys)]
        if self.everything:
            pairs.append([ANY, ANY])
        if self.lazy:
            pairs.append([event_types.MEMBER, LAZY])
        return pairs

    def __len__(self) -> int:
        return len(self.entries) + len(self.types) + len(self.keys) + len(self.excluded)


NOTHING: Final = RequiredState()


def required_state(
    pairs: Iterable[Collection[str]],
    user_id: UserID,
    excluded: Iterable[tuple[str, str]] = (),
) -> RequiredState:
    """Read patterns as a user sends them."""
    entries: set[StateKey] = set()
    types: set[str] = set()
    keys: set[str] = set()
    everything = lazy = False
    for event_type, state_key in pairs:
        wanted = user_id if state_key == ME else state_key
        if state_key == LAZY:
            lazy = lazy or event_type in (event_types.MEMBER, ANY)
        elif event_type == ANY and wanted == ANY:
            everything = True
        elif event_type == ANY:
            keys.add(wanted)
        elif wanted == ANY:
            types.add(event_type)
        else:
            entries.add((event_type, wanted))
    return RequiredState(
        frozenset(entries),
        frozenset(types),
        frozenset(keys),
        everything,
        lazy,
        frozenset((event_type, state_key) for event_type, state_key in excluded),
    )


def _within(key: StateKey, pattern: StateKey) -> bool:
    return pattern[0] in (ANY, key[0]) and pattern[1] in (ANY, key[1])
