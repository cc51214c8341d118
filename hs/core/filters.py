"""Clients' filters: parsed and validated once, then applied to many events.

An absent list lets every event pass; an empty list lets none pass.

Spec: client-server API, Filtering.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import attrs

from hs.core.errors import BadJson
from hs.core.globs import StarPattern, compile_stars
from hs.core.property_paths import PropertyPath, parse_property_path

T = TypeVar("T")

PROFILE_FIELDS: Final = "org.matrix.msc4429.profile_fields"

MAX_ENTRIES: Final = 10_000
"""Largest number of entries in one list of a filter."""
MAX_WILDCARDS: Final = 100
"""Largest number of types with `*` in one list: each event is compared with all of them."""
_FILTER_BYTES: Final = 2000
_TEXT_BYTES: Final = 130


@attrs.frozen
class TypePatterns:
    """A list of event types, in which `*` is a wildcard."""

    exact: frozenset[str]
    patterns: tuple[StarPattern, ...] = ()

    def match(self, event_type: str) -> bool:
        """Return whether an event type is in the list."""
        if event_type in self.exact:
            return True
        return any(pattern.matches(event_type) for pattern in self.patterns)


NO_TYPES = TypePatterns(frozenset())


@attrs.frozen
class EventFilter:
    """A filter for one section of a response.

    `rooms`, `contains_url`, the lazy-loading fields and the ones about relations and threads occur
    only in filters for room sections (`RoomEventFilter` in the specification).
    """

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
        """Return whether an event passes the conditions on type, sender and URL.

        Account data and the like have no sender (None) and pass only if the filter has no
        `senders`.
        """
        return (
            self.allows_type(event_type)
            and self.allows_sender(sender)
            and (self.contains_url is None or self.contains_url is has_url(content))
        )

    def allows_type(self, event_type: str) -> bool:
        """Return whether events of a type can pass."""
        if self.not_types.match(event_type):
            return False
        return self.types is None or self.types.match(event_type)

    def allows_sender(self, sender: str | None) -> bool:
        """Return whether events of a sender can pass."""
        if sender in self.not_senders:
            return False
        return self.senders is None or sender in self.senders

    def allows_room(self, room_id: str) -> bool:
        """Return whether events of a room can pass."""
        return _allows_room(room_id, self.rooms, self.not_rooms)

    def allows_children(self, children: Iterable[tuple[str, str]]) -> bool:
        """Return whether an event passes by its child events, given as (rel_type, sender).

        One child must meet both `related_by_…` conditions. Call this only if `needs_children`.
        """
        return any(
            (self.related_by_rel_types is None or rel_type in self.related_by_rel_types)
            and (self.related_by_senders is None or sender in self.related_by_senders)
            for rel_type, sender in children
        )

    @property
    def needs_children(self) -> bool:
        """Whether the filter depends on the events that relate to an event."""
        return self.related_by_rel_types is not None or self.related_by_senders is not None

    @property
    def allows_nothing(self) -> bool:
        """Whether no event can pass, so that no query is needed."""
        if self.types == NO_TYPES or self.limit == 0:
            return True
        return self.senders == frozenset() or self.rooms == frozenset()

    @property
    def allows_everything(self) -> bool:
        """Whether every event passes, so that events need not be checked one by one."""
        only_conditions = attrs.evolve(
            self,
            limit=None,
            lazy_load_members=False,
            include_redundant_members=False,
            unread_thread_notifications=False,
        )
        return only_conditions == ANY_EVENT

    def limit_within(self, default: int, maximum: int) -> int:
        """Return the largest number of events to return."""
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
        """Return whether the response contains a room at all."""
        return _allows_room(room_id, self.rooms, self.not_rooms)


@attrs.frozen
class SyncFilter:
    """A complete filter, as clients upload it; `event_fields` is None for all fields.

    `profile_fields` are the profile fields that the client follows (MSC4429).
    """

    event_fields: tuple[PropertyPath, ...] | None = None
    federation_format: bool = False
    presence: EventFilter = ANY_EVENT
    account_data: EventFilter = ANY_EVENT
    room: RoomFilter = RoomFilter()
    profile_fields: frozenset[str] = frozenset()


NO_FILTER = SyncFilter()


def parse_sync_filter(value: object) -> SyncFilter:
    """Parse a filter of `POST /user/{userId}/filter` or `GET /sync`.

    Raises: BadJson.
    """
    tree = _mapping(value, "filter")
    fields = _optional(tree, "event_fields", _strings)
    profiles = _mapping(tree.get(PROFILE_FIELDS, {}), PROFILE_FIELDS)
    event_format = tree.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise BadJson("'event_format' must be 'client' or 'federation'")
    return SyncFilter(
        event_fields=tuple(map(parse_property_path, fields)) if fields else None,
        federation_format=event_format == "federation",
        presence=_section(tree, "presence"),
        account_data=_section(tree, "account_data"),
        room=_room_filter(_mapping(tree.get("room", {}), "room")),
        profile_fields=_string_set(profiles, "ids") or frozenset(),
    )


def parse_event_filter(value: object) -> EventFilter:
    """Parse a filter of `/messages`, `/context` or `/search`, or one section of a sync filter.

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


def size_of(sync_filter: SyncFilter) -> int:
    """Return about how many bytes a parsed filter takes."""
    room = sync_filter.room
    sections = (
        sync_filter.presence,
        sync_filter.account_data,
        room.timeline,
        room.state,
        room.ephemeral,
        room.account_data,
    )
    texts: list[Iterable[str]] = [room.rooms or (), room.not_rooms]
    texts += sync_filter.event_fields or ()
    for section in sections:
        texts += (section.senders or (), section.not_senders, section.rooms or ())
        texts += (section.not_rooms, section.related_by_rel_types or ())
        texts += (section.related_by_senders or (),)
        for types in (section.types or NO_TYPES, section.not_types):
            texts.append(types.exact)
            texts += (pattern.pieces for pattern in types.patterns)
    return _FILTER_BYTES + sum(_TEXT_BYTES + len(text) for part in texts for text in part)


def project(event: Mapping[str, Any], fields: Iterable[PropertyPath]) -> dict[str, Any]:
    """Return a copy of an event with only the given fields; the event is not modified."""
    paths = set(fields)
    projected: dict[str, Any] = {}
    for path in paths:
        # A shorter path in the filter already copies the whole object that holds this field.
        if not any(path[:length] in paths for length in range(1, len(path))):
            _copy_property(event, path, projected)
    return projected


def has_url(content: Mapping[str, Any]) -> bool:
    """Return whether the content has a `url`, as the `contains_url` filter defines it."""
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
    if len(starred) > MAX_WILDCARDS:
        raise BadJson(f"A filter must not have more than {MAX_WILDCARDS} types with '*' in a list")
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
        raise BadJson(f"'{name}' must be a non-negative integer")
    return value


def _strings(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise BadJson(f"'{name}' must be a list of at most {MAX_ENTRIES} entries")
    if not all(isinstance(entry, str) and "\0" not in entry for entry in value):
        raise BadJson(f"'{name}' must contain only strings without NUL")
    return tuple(value)


def _user_ids(value: object, name: str) -> frozenset[str]:
    entries = _strings(value, name)
    if not all(entry.startswith("@") and ":" in entry for entry in entries):
        raise BadJson(f"'{name}' must contain only user IDs")
    return frozenset(entries)


def _room_ids(value: object, name: str) -> frozenset[str]:
    entries = _strings(value, name)
    if not all(entry.startswith("!") and len(entry) > 1 for entry in entries):
        raise BadJson(f"'{name}' must contain only room IDs")
    return frozenset(entries)
