"""The member events that each device has received, so that lazy loading does not repeat them.

Rules:

- A record is immutable and has a name, which is a segment of the token of the response. A response
  that sends further members makes a new record; one that sends none repeats the name. So members
  count as received only when the device sends the token of the response with them, and a device
  that repeats an older token, because the response was lost, gets its members again.
- The name says which process made the record, by its number among those that others can call. The
  process that gets the next request asks that one, unless it has the record. A token that names
  no other process costs no call, nor does one that was sent here before.
- The answer has only what was added since a record that the asking process has.
- Nothing in a token is trusted: its number selects among the known processes, which answer with
  records of the authenticated device only.
- A process that does not answer is not asked again for a while.
- Records are kept in memory only, and limited in number and size, as answers are. A lost record
  costs repeated members. Numbers of records begin at random, so that a process does not take a
  record of its last life for one of this.
- A response without lazy loading repeats the name: a device that uses filters of both kinds keeps
  what each of them has shown it.

Spec: client-server API, Lazy-loading room members.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice
from typing import Final, Protocol

import attrs
import trio
from immutables import Map

from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.caching.lru_cache import LruCache
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.rpc import rpc

MAX_DEVICES: Final = 10_000
MAX_MEMBERS: Final = 1_000_000
MAX_MEMBERS_PER_DEVICE: Final = 10_000
MAX_MEMBERS_PER_ANSWER: Final = 2_000
MAX_RECORDS_PER_DEVICE: Final = 8
ANSWER_S: Final = 1.0
"""How long a response waits for a record of another process."""
NOT_ASKED_S: Final = 10.0
"""How long a process is not asked that has not answered."""

RECORD_SEGMENT: Final = "_m"
"""What comes before the name of a record in a token."""
_NAME: Final = re.compile(r"([0-9]{1,4})\.([0-9a-f]{1,16})", re.ASCII)
_FIRST_NUMBER_BITS: Final = 32

SentMember = tuple[RoomID, UserID, EventID]
DeviceKey = tuple[UserID, str | None]
MembersByRoom = dict[RoomID, dict[UserID, EventID]]
_NO_MEMBERS: Final = Map[UserID, EventID]()


@attrs.frozen
class RecordName:
    """The name of a record: the number of the process that made it, and that of the record."""

    process: int
    number: int

    def encode(self) -> str:
        """Return the text form, `<process>.<number>`."""
        return f"{self.process}.{self.number:x}"

    @classmethod
    def parse(cls, text: str) -> "RecordName | None":
        """Parse the text form; None if it is malformed."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2], 16))


def add_record(token_text: str, name: RecordName) -> str:
    """Return a sync token with the name of a record.

    Other endpoints accept it as a sync token and ignore the name.
    """
    return f"{token_text}{RECORD_SEGMENT}{name.encode()}"


def split_record(text: str) -> tuple[str, RecordName | None]:
    """Return the sync token without the name of a record, and the name."""
    token_text, segment, name_text = text.rpartition(RECORD_SEGMENT)
    name = RecordName.parse(name_text) if segment else None
    return (text, None) if name is None else (token_text, name)


@attrs.frozen(eq=False)
class SentMembers:
    """The member events that one device has received with the token that has the name.

    `parent` is the record that it adds to; None if it has nothing else.
    """

    name: RecordName | None = None
    rooms: Map[RoomID, Map[UserID, EventID]] = Map()
    count: int = 0
    parent: RecordName | None = None

    def has(self, room_id: RoomID, user_id: UserID, event_id: EventID) -> bool:
        """Return whether the device has received a member event."""
        room = self.rooms.get(room_id)
        return room is not None and room.get(user_id) == event_id

    def with_members(self, members: Sequence[SentMember], name: RecordName) -> "SentMembers":
        """Return the record that also has these members; only these, if it would be too large."""
        if self.count + len(members) > MAX_MEMBERS_PER_DEVICE and self.count:
            return NOTHING_SENT.with_members(members, name)
        by_room: MembersByRoom = {}
        for room_id, user_id, event_id in members[:MAX_MEMBERS_PER_DEVICE]:
            by_room.setdefault(room_id, {})[user_id] = event_id
        rooms, size = self.rooms.mutate(), self.count
        for room_id, added in by_room.items():
            before = rooms.get(room_id, _NO_MEMBERS)
            rooms[room_id] = after = before.update(added)
            size += len(after) - len(before)
        return SentMembers(name, rooms.finish(), size, self.name if self.count else None)

    def added_to(self, base: "SentMembers | None") -> Iterable[SentMember]:
        """Yield the members that the record has, but not the one that it was made from."""
        for room_id, members in self.rooms.items():
            before = None if base is None else base.rooms.get(room_id)
            if members is not before:
                for user_id, event_id in members.items():
                    if before is None or before.get(user_id) != event_id:
                        yield room_id, user_id, event_id


NOTHING_SENT: Final = SentMembers()


@attrs.frozen
class RecordAnswer:
    """The members of a record without those of `base`, which the caller has; "" if it has none."""

    base: str
    members: MembersByRoom


class SentMemberRecords(Protocol):
    """The records that one process has made."""

    @rpc(timeout_s=ANSWER_S, catch_up=False)
    async def sent_members(
        self, user_id: UserID, device_id: str | None, name: str, known: list[str]
    ) -> RecordAnswer | None:
        """Return a record of a device; None if it is lost. `known` are those the caller has."""


RecordSource = Callable[[int], SentMemberRecords | None]
"""Returns the records of another process by its number; None if there is no such process."""


class LazyMembers:
    """The records of all devices that sync through this process, which has the number `process`."""

    def __init__(
        self,
        process: int = 0,
        source: RecordSource = lambda number: None,
        max_devices: int = MAX_DEVICES,
    ) -> None:
        self._process = process
        self._source = source
        self._numbers = count(secrets.randbits(_FIRST_NUMBER_BITS))
        self._devices: LruCache[DeviceKey, tuple[SentMembers, ...]] = LruCache(
            "lazy_members", max_entries=max_devices, max_weight=MAX_MEMBERS, weigh=_weigh
        )
        self._silent_until: dict[int, float] = {}

    async def find(self, requester: Requester, name: RecordName) -> SentMembers:
        """Return a record of the requester's device; if it is lost, an empty one without a name."""
        device = requester.user_id, requester.device_id
        records = self._devices.get(device, ())
        for record in records:
            if record.name == name:
                return record
        record = await self._fetch(device, name, records)
        if record is not NOTHING_SENT:
            self._put(device, record)
        return record

    def add(
        self, requester: Requester, record: SentMembers, members: Iterable[SentMember]
    ) -> SentMembers:
        """Return the record that also has these members, under a new name if any is new."""
        new = [member for member in members if not record.has(*member)]
        if not new:
            return record
        added = record.with_members(new, RecordName(self._process, next(self._numbers)))
        self._put((requester.user_id, requester.device_id), added)
        return added

    async def sent_members(
        self, user_id: UserID, device_id: str | None, name: str, known: list[str]
    ) -> RecordAnswer | None:
        """Answer another process; see SentMemberRecords."""
        records = {record.name: record for record in self._devices.get((user_id, device_id), ())}
        record = records.get(RecordName.parse(name))
        if record is None:
            return None
        base: SentMembers | None = record
        while base is not None and _text_of(base) not in known:
            base = None if base.parent is None else records.get(base.parent)
        members: MembersByRoom = {}
        for room_id, member_id, event_id in islice(record.added_to(base), MAX_MEMBERS_PER_ANSWER):
            members.setdefault(room_id, {})[member_id] = event_id
        return RecordAnswer("" if base is None else _text_of(base), members)

    async def _fetch(
        self, device: DeviceKey, name: RecordName, records: Sequence[SentMembers]
    ) -> SentMembers:
        source = None if name.process == self._process else self._source(name.process)
        if source is None or trio.current_time() < self._silent_until.get(name.process, 0.0):
            return NOTHING_SENT
        known = {_text_of(record): record for record in records}
        try:
            answer = await source.sent_members(*device, name.encode(), list(known))
        except (RpcUnavailable, RpcFailed):
            self._silent_until[name.process] = trio.current_time() + NOT_ASKED_S
            return NOTHING_SENT
        if answer is None:
            return NOTHING_SENT
        members = [
            (room_id, user_id, event_id)
            for room_id, in_room in answer.members.items()
            for user_id, event_id in in_room.items()
        ]
        return known.get(answer.base, NOTHING_SENT).with_members(members, name)

    def _put(self, device: DeviceKey, record: SentMembers) -> None:
        """Store a record as the latest of a device, after the one that it was made from."""
        others = [each for each in self._devices.get(device, ()) if each.name != record.name]
        records = sorted(others, key=lambda each: each.name == record.parent)
        self._devices.put(device, (*records, record)[-MAX_RECORDS_PER_DEVICE:])


def _text_of(record: SentMembers) -> str:
    return "" if record.name is None else record.name.encode()


def _weigh(device: DeviceKey, records: tuple[SentMembers, ...]) -> int:
    # A record shares the members of the one that it was made from.
    counts = {record.name: record.count for record in records}
    return 1 + sum(max(0, record.count - counts.get(record.parent, 0)) for record in records)
