"""The `required_state` patterns of a sliding sync request.

A pattern is a pair of event type and state key. `*` stands for any type or any key, `$ME` for the
requester's user ID, and `$LAZY`, with `m.room.member`, for the members that the timeline needs.
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

    With `lazy`, `everything` does not include members; other patterns may. Entries that match a
    pattern in `excluded`, in which type and key may be `*`, are left out.
    """

    entries: frozenset[StateKey] = frozenset()
    types: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    everything: bool = False
    lazy: bool = False
    excluded: frozenset[StateKey] = frozenset()

    @property
    def has_wildcards(self) -> bool:
        """Whether all entries of a state must be examined to find the matching ones."""
        return self.everything or bool(self.types) or bool(self.keys)

    @property
    def needs_all(self) -> bool:
        """Whether entries of any type can match."""
        return self.everything or bool(self.keys)

    def matches(self, key: StateKey) -> bool:
        """Return whether a pattern selects an entry, lazy loading aside."""
        if self.excluded and any(_matches_pattern(key, pattern) for pattern in self.excluded):
            return False
        return self._includes(key)

    def _includes(self, key: StateKey) -> bool:
        if key in self.entries or key[0] in self.types or key[1] in self.keys:
            return True
        return self.everything and not (self.lazy and key[0] == event_types.MEMBER)

    def select(self, state: Mapping[StateKey, EventID]) -> Iterator[tuple[StateKey, EventID]]:
        """Yield the matching entries of a state."""
        if self.has_wildcards:
            for key, event_id in state.items():
                if self.matches(key):
                    yield key, event_id
            return
        for key in self.entries:
            entry_id = state.get(key)
            if entry_id is not None and (not self.excluded or self.matches(key)):
                yield key, entry_id

    def covers(self, other: "RequiredState") -> bool:
        """Return whether everything that `other` selects is selected by this as well."""
        if self is other or self == other:
            return True
        if any(
            pattern not in other.excluded and other._may_match(pattern) for pattern in self.excluded
        ):
            return False
        if other.lazy and not self.lazy and event_types.MEMBER not in self.types:
            return False
        if self.everything and not self.lazy:
            return True
        if other.everything and not self.everything:
            return False
        # Lazy loading selects members only as they are needed, unless their type is named.
        if other.everything and not other.lazy and event_types.MEMBER not in self.types:
            return False
        return (
            other.types <= self.types
            and other.keys <= self.keys
            and all(self._includes(key) for key in other.entries)
        )

    def union(self, other: "RequiredState") -> "RequiredState":
        """Return patterns that select everything that either selects."""
        if self is other or self == other:
            return self
        types = self.types | other.types
        # One selects everything including members, so the union must not exclude lazy members.
        if (self.everything and not self.lazy) or (other.everything and not other.lazy):
            types |= {event_types.MEMBER}
        return RequiredState(
            entries=self.entries | other.entries,
            types=types,
            keys=self.keys | other.keys,
            everything=self.everything or other.everything,
            lazy=self.lazy or other.lazy,
            excluded=frozenset(
                [
                    pattern
                    for pattern in self.excluded
                    if pattern in other.excluded or not other._may_match(pattern)
                ]
                + [pattern for pattern in other.excluded if not self._may_match(pattern)]
            ),
        )

    def _may_match(self, pattern: StateKey) -> bool:
        """Return whether a selected entry may match a pattern of `excluded`."""
        event_type, state_key = pattern
        if self.everything:
            return True
        if self.types and (event_type == ANY or event_type in self.types):
            return True
        if self.keys and (state_key == ANY or state_key in self.keys):
            return True
        return any(_matches_pattern(key, pattern) for key in self.entries)

    def pairs(self) -> list[list[str]]:
        """Return the patterns as pairs, as a request has them."""
        pairs = [list(entry) for entry in sorted(self.entries)]
        pairs += [[event_type, ANY] for event_type in sorted(self.types)]
        pairs += [[ANY, state_key] for state_key in sorted(self.keys)]
        if self.everything:
            pairs.append([ANY, ANY])
        if self.lazy:
            pairs.append([event_types.MEMBER, LAZY])
        return pairs

    def __len__(self) -> int:
        return len(self.entries) + len(self.types) + len(self.keys) + len(self.excluded)


NO_REQUIRED_STATE: Final = RequiredState()


def parse_required_state(
    pairs: Iterable[Collection[str]],
    user_id: UserID,
    excluded: Iterable[tuple[str, str]] = (),
) -> RequiredState:
    """Parse the patterns of a request by `user_id`."""
    entries: set[StateKey] = set()
    types: set[str] = set()
    keys: set[str] = set()
    everything = lazy = False
    for event_type, state_key in pairs:
        key = user_id if state_key == ME else state_key
        if state_key == LAZY:
            lazy = lazy or event_type in (event_types.MEMBER, ANY)
        elif event_type == ANY and key == ANY:
            everything = True
        elif event_type == ANY:
            keys.add(key)
        elif key == ANY:
            types.add(event_type)
        else:
            entries.add((event_type, key))
    return RequiredState(
        entries=frozenset(entries),
        types=frozenset(types),
        keys=frozenset(keys),
        everything=everything,
        lazy=lazy,
        excluded=frozenset((event_type, state_key) for event_type, state_key in excluded),
    )


def _matches_pattern(key: StateKey, pattern: StateKey) -> bool:
    return pattern[0] in (ANY, key[0]) and pattern[1] in (ANY, key[1])
