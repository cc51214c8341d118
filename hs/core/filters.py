"""Clients' filters: read and checked once, then asked about each event.

A list that is absent lets everything pass; one that is empty lets nothing pass.

Spec: client-server API, Filtering.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import attrs

from hs.core.errors import BadJson
from hs.core.globs import StarPattern, compile_stars
from hs.core.property_paths import PropertyPath, parse_property_path

T = TypeVar("T")

MAX_ENTRIES: Final = 10_000
"""Most entries of one list in a filter."""


@attrs.frozen
class TypePatterns:
    """A list of event types, some with stars."""

    exact: frozenset[str]
    patterns: tuple[StarPattern, ...] = ()

    def match(self, event_type: str) -> bool:
        """Tell whether an event type is in the list."""
        if event_type in self.exact:
            return True
        return any(pattern.matches(event_type) for pattern in self.patterns)


NO_TYPES = TypePatterns(frozenset())


@attrs.frozen
class EventFilter:
    """A filter for one section of an answer; what concerns rooms is for room sections only."""

    limit: int | None = None
    types: TypePatterns | None = None
    not_types: TypePatterns = NO_TYPES
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    related_by_rel_types: frozenset[str] | None = None
    related_by_senders: frozenset[str] | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False

    def allows(self, event_type: str, sender: str | None, content: Mapping[str, Any]) -> bool:
        """Tell whether an event passes, as far as it can tell by itself.

        What has no sender, such as account data, passes only without a list of senders.
        """
        return (
            self.allows_type(event_type)
            and self.allows_sender(sender)
            and (self.contains_url is None or self.contains_url is has_url(content))
        )

    def allows_type(self, event_type: str) -> bool:
        """Tell whether events of a type may pass."""
        if self.not_types.match(event_type):
            return False
        return self.types is None or self.types.match(event_type)

    def allows_sender(self, sender: str | None) -> bool:
        """Tell whether events of a sender may pass."""
        if sender in self.not_senders:
            return False
        return self.senders is None or sender in self.senders

    def allows_room(self, room_id: str) -> bool:
        """Tell whether events of a room may pass."""
        return _allows_room(room_id, self.rooms, self.not_rooms)

    def allows_children(self, children: Iterable[tuple[str, str]]) -> bool:
        """Tell whether an event passes by its child events, given as (rel_type, sender).

        One child must meet both conditions. Ask only if `needs_children`.
        """
        return any(
            (self.related_by_rel_types is None or rel_type in self.related_by_rel_types)
            and (self.related_by_senders is None or sender in self.related_by_senders)
            for rel_type, sender in children
        )

    @property
    def needs_children(self) -> bool:
        """Tell whether the relations of an event must be looked up."""
        return self.related_by_rel_types is not None or self.related_by_senders is not None

    @property
    def allows_nothing(self) -> bool:
        """Tell whether no event can pass, so that none need be looked for."""
        if self.types == NO_TYPES or self.limit == 0:
            return True
        return self.senders == frozenset() or self.rooms == frozenset()

    @property
    def allows_everything(self) -> bool:
        """Tell whether every event passes, so that none need be asked about."""
        plain = attrs.evolve(
            self,
            limit=None,
            lazy_load_members=False,
            include_redundant_members=False,
            unread_thread_notifications=False,
        )
        return plain == ANY_EVENT

    def limit_within(self, default: int, maximum: int) -> int:
        """Give how many events to return at most."""
        return default if self.limit is None else min(self.limit, maximum)


ANY_EVENT = EventFilter()


@attrs.frozen
class RoomFilter:
    """A filter for the rooms section of `/sync`."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    timeline: EventFilter = ANY_EVENT
    state: EventFilter = ANY_EVENT
    ephemeral: EventFilter = ANY_EVENT
    account_data: EventFilter = ANY_EVENT

    def allows_room(self, room_id: str) -> bool:
        """Tell whether a room is shown at all."""
        return _allows_room(room_id, self.rooms, self.not_rooms)


@attrs.frozen
class SyncFilter:
    """A whole filter, as clients upload it; `event_fields` is None for all fields."""

    event_fields: tuple[PropertyPath, ...] | None = None
    federation_format: bool = False
    presence: EventFilter = ANY_EVENT
    account_data: EventFilter = ANY_EVENT
    room: RoomFilter = RoomFilter()


NO_FILTER = SyncFilter()


def parse_sync_filter(value: object) -> SyncFilter:
    """Read a filter of `POST /user/{userId}/filter` or of `/sync`.

    Raises: BadJson.
    """
    tree = _mapping(value, "filter")
    fields = _optional(tree, "event_fields", _strings)
    event_format = tree.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise BadJson("'event_format' must be 'client' or 'federation'")
    return SyncFilter(
        event_fields=tuple(map(parse_property_path, fields)) if fields else None,
        federation_format=event_format == "federation",
        presence=_section(tree, "presence"),
        account_data=_section(tree, "account_data"),
        room=_room_filter(_mapping(tree.get("room", {}), "room")),
    )


def parse_event_filter(value: object) -> EventFilter:
    """Read a filter of `/messages`, `/context` or `/search`, or a section of a larger one.

    Raises: BadJson.
    """
    tree = _mapping(value, "filter")
    types = _optional(tree, "types", _strings)
    return EventFilter(
        limit=_optional(tree, "limit", _limit),
        types=None if types is None else _type_patterns(types),
        not_types=_type_patterns(_optional(tree, "not_types", _strings) or ()),
        senders=_optional(tree, "senders", _user_ids),
        not_senders=_optional(tree, "not_senders", _user_ids) or frozenset(),
        rooms=_optional(tree, "rooms", _room_ids),
        not_rooms=_optional(tree, "not_rooms", _room_ids) or frozenset(),
        contains_url=_optional(tree, "contains_url", _boolean),
        related_by_rel_types=_string_set(tree, "related_by_rel_types"),
        related_by_senders=_optional(tree, "related_by_senders", _user_ids),
        lazy_load_members=_flag(tree, "lazy_load_members"),
        include_redundant_members=_flag(tree, "include_redundant_members"),
        unread_thread_notifications=_flag(tree, "unread_thread_notifications")
        or _flag(tree, "org.matrix.msc3773.unread_thread_notifications"),
    )


def project(event: Mapping[str, Any], fields: Iterable[PropertyPath]) -> dict[str, Any]:
    """Give an event with the wanted fields only; the event is left as it is."""
    wanted = set(fields)
    projected: dict[str, Any] = {}
    for path in wanted:
        # What lies in a field that is wanted whole comes with it.
        if not any(path[:length] in wanted for length in range(1, len(path))):
            _copy_property(event, path, projected)
    return projected


def has_url(content: Mapping[str, Any]) -> bool:
    """Tell whether an event counts as one with a URL."""
    return isinstance(content.get("url"), str)


def _copy_property(source: Mapping[str, Any], path: PropertyPath, into: dict[str, Any]) -> None:
    *parents, last = path
    holder: Any = source
    for name in parents:
        holder = holder.get(name) if isinstance(holder, Mapping) else None
    if not isinstance(holder, Mapping) or last not in holder:
        return
    for name in parents:
        into = into.setdefault(name, {})
    into[last] = holder[last]


def _allows_room(room_id: str, rooms: frozenset[str] | None, not_rooms: frozenset[str]) -> bool:
    return room_id not in not_rooms and (rooms is None or room_id in rooms)


def _room_filter(tree: Mapping[str, Any]) -> RoomFilter:
    return RoomFilter(
        rooms=_optional(tree, "rooms", _room_ids),
        not_rooms=_optional(tree, "not_rooms", _room_ids) or frozenset(),
        include_leave=_flag(tree, "include_leave"),
        timeline=_section(tree, "timeline"),
        state=_section(tree, "state"),
        ephemeral=_section(tree, "ephemeral"),
        account_data=_section(tree, "account_data"),
    )


def _section(tree: Mapping[str, Any], name: str) -> EventFilter:
    return parse_event_filter(_mapping(tree.get(name, {}), name))


def _optional(tree: Mapping[str, Any], name: str, read: Callable[[object, str], T]) -> T | None:
    value = tree.get(name)
    return None if value is None else read(value, name)


def _flag(tree: Mapping[str, Any], name: str) -> bool:
    return _optional(tree, name, _boolean) or False


def _string_set(tree: Mapping[str, Any], name: str) -> frozenset[str] | None:
    strings = _optional(tree, name, _strings)
    return None if strings is None else frozenset(strings)


def _type_patterns(types: Iterable[str]) -> TypePatterns:
    names = frozenset(types)
    starred = sorted(name for name in names if "*" in name)
    return TypePatterns(names.difference(starred), tuple(map(compile_stars, starred)))


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadJson(f"'{name}' must be an object")
    return value


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise BadJson(f"'{name}' must be a boolean")
    return value


def _limit(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadJson(f"'{name}' must be an integer, not negative")
    return value


def _strings(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise BadJson(f"'{name}' must be a list, not too long")
    if not all(isinstance(entry, str) and "\0" not in entry for entry in value):
        raise BadJson(f"'{name}' must hold strings")
    return tuple(value)


def _user_ids(value: object, name: str) -> frozenset[str]:
    entries = _strings(value, name)
    if not all(entry.startswith("@") and ":" in entry for entry in entries):
        raise BadJson(f"'{name}' must hold user IDs")
    return frozenset(entries)


def _room_ids(value: object, name: str) -> frozenset[str]:
    entries = _strings(value, name)
    if not all(entry.startswith("!") and len(entry) > 1 for entry in entries):
        raise BadJson(f"'{name}' must hold room IDs")
    return frozenset(entries)
