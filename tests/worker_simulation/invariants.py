"""What must be true when the faults have ended and everything had the time to settle."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import attrs

from hs.core.stream_def import StreamKind
from hs.core.streams import CATALOGUE
from tests.worker_simulation.ledger import Ledger
from tests.worker_simulation.processes import SimulatedCluster
from tests.worker_simulation.tables import TableEvent, Tables
from tests.worker_simulation.users import COUNTER, Room, User
from tests.worker_simulation.views import RoomView

JOIN = "join"


@attrs.frozen(eq=False)
class Invariants:
    """Yields violations."""

    cluster: SimulatedCluster
    ledger: Ledger
    rooms: Sequence[Room]
    users: Sequence[User]
    tables: Tables

    def check(self) -> Iterator[str]:
        """Yield all violations but those of single processes; see `check_process`."""
        for room in self.rooms:
            events = self.tables.room(room.room_id)
            yield from check_room(events, self.tables.state.get(room.room_id, {}))
        yield from self._check_acknowledged()
        yield from self._check_reads()
        yield from self._check_messages()
        for user in self.users:
            yield from self._check_view(user)

    def _check_acknowledged(self) -> Iterator[str]:
        last: dict[tuple[str, str], int] = {}
        for sent in self.ledger.events:
            event = self.tables.events.get(sent.event_id)
            if event is None or event.status != 0:
                yield f"acknowledged event {sent.event_id} ({sent.text}) is not stored"
                continue
            key = (sent.room_id, sent.sender)
            if event.stream_id < last.get(key, 0):
                yield f"{sent.text} was acknowledged after an event that it precedes"
            last[key] = event.stream_id
        texts = Counter(
            event.content.get("body")
            for event in self.tables.events.values()
            if event.type == "m.room.message"
        )
        yield from (f"{text} is stored {count} times" for text, count in texts.items() if count > 1)
        for (room_id, user_id), event_id in self.ledger.receipts.items():
            stored = self.tables.receipts.get((room_id, user_id))
            if stored is None or stored[1] < self.tables.events[event_id].stream_id:
                yield f"the receipt of {user_id} for {event_id} is not stored: {stored}"
        for (user_id, room_id), count in self.ledger.account_data.items():
            content = self.tables.account_data.get((user_id, room_id, COUNTER))
            if content != {"count": count}:
                yield f"the account data of {user_id} is {content}, not {count}"

    def _check_reads(self) -> Iterator[str]:
        by_topic: dict[object, int] = {}
        for event in self.tables.events.values():
            if event.type == "m.room.topic":
                by_topic[event.room_id, event.content["topic"]] = event.stream_id
        for read in self.ledger.reads:
            mine = self.tables.events[read.acknowledged].stream_id
            if by_topic.get((read.room_id, read.topic), 0) < mine:
                yield f"{read.place} read topic {read.topic}, older than {read.acknowledged}"

    def _check_messages(self) -> Iterator[str]:
        by_id = {user.user_id: user for user in self.users}
        for number, (sender, recipient) in self.ledger.to_device.items():
            if by_id[recipient].view.to_device[number] != 1:
                yield f"to-device message {number} of {sender} did not reach {recipient}"
        for user in self.users:
            last: dict[str, int] = {}
            for sender, number in user.view.numbers:
                if number < last.get(sender, 0):
                    yield f"{user.user_id} got to-device message {number} of {sender} late"
                last[sender] = number
        for owner, began in self.ledger.changes.items():
            for user in self.users:
                if user.user_id != owner and user.view.changed.get(owner, 0) < began:
                    yield f"{user.user_id} did not learn of the changed devices of {owner}"

    def _check_view(self, user: User) -> Iterator[str]:
        for room in self.rooms:
            view = user.view.rooms.get(room.room_id)
            if view is None:
                continue
            events = self.tables.room(room.room_id)
            yield from check_timeline(user.user_id, view, events)
            if not view.is_joined:
                continue
            state = self.tables.state[room.room_id]
            for key in state.keys() | view.state.keys():
                if state.get(key) != view.state.get(key):
                    yield f"{user.user_id} has {view.state.get(key)} as {key}, not {state.get(key)}"
            unread = self.unread(user.user_id, events)
            if view.unread != unread:
                yield f"{user.user_id} counts {view.unread} in {room.room_id}, not {unread}"

    def unread(self, user_id: str, events: Sequence[TableEvent]) -> int:
        """Return the number of messages in a room that a member has not read."""
        room_id = events[0].room_id
        read = self.tables.receipts.get((room_id, user_id), ("", 0))[1]
        since = max(read, _read_without_receipt(user_id, events))
        return sum(
            event.type == "m.room.message" and event.stream_id > since and event.sender != user_id
            for event in events
        )

    async def check_process(self, name: str) -> list[str]:
        """Return what a process gets wrong, that is: where its memory differs from the tables."""
        problems = list(self._check_positions(name))
        if name not in self.cluster.serving:
            return problems
        for user in self.users:
            answer = None
            while answer is None:
                answer = await user.ask_sync("", at=name)
            problems += [f"{name}: {each}" for each in self._check_snapshot(user, answer)]
        return problems

    def _check_positions(self, name: str) -> Iterator[str]:
        life = self.cluster.processes[name].life
        if life is None or life.process is None:
            return
        for stream in CATALOGUE:
            if stream.kind is StreamKind.MEMORY:
                continue
            known = life.process.base.feed.positions_of(stream)
            for (stream_name, writer), position in self.tables.positions.items():
                if stream_name == stream.name and known.get(writer, 0) < position:
                    place = f"{writer} in {stream_name}"
                    yield f"{name} is at {known.get(writer)} of {place}, not {position}"

    def _check_snapshot(self, user: User, answer: dict[str, Any]) -> Iterator[str]:
        data = {event["type"]: event["content"] for event in answer["account_data"]["events"]}
        stored = self.tables.account_data.get((user.user_id, "", COUNTER))
        if data.get(COUNTER) != stored:
            yield f"account data of {user.user_id} is {data.get(COUNTER)}, not {stored}"
        joined = answer["rooms"].get("join", {})
        for room in self.rooms:
            state = self.tables.state.get(room.room_id, {})
            events = self.tables.room(room.room_id)
            member = self.tables.events.get(state.get(("m.room.member", user.user_id), ""))
            is_joined = member is not None and member.membership == JOIN
            if is_joined != (room.room_id in joined):
                yield f"{user.user_id} is joined to {room.room_id}: {not is_joined}"
            elif is_joined:
                yield from self._check_room(user, joined[room.room_id], events, state)

    def _check_room(
        self,
        user: User,
        response: dict[str, Any],
        events: Sequence[TableEvent],
        state: dict[tuple[str, str], str],
    ) -> Iterator[str]:
        room_id, view = events[0].room_id, RoomView()
        timeline = response["timeline"]["events"]
        for event in (*response["state"]["events"], *timeline):
            if "state_key" in event:
                view.state[event["type"], event["state_key"]] = event["event_id"]
        for key in state.keys() | view.state.keys():
            if state.get(key) != view.state.get(key):
                yield f"{user.user_id} is sent {view.state.get(key)} as {key}, not {state.get(key)}"
        shown = [event["event_id"] for event in timeline]
        stored = [event.event_id for event in events][-len(shown) :]
        if shown != stored:
            yield f"the timeline of {user.user_id} in {room_id} is {shown}, not {stored}"
        count = response["unread_notifications"]["notification_count"]
        unread = self.unread(user.user_id, events)
        if count != unread:
            yield f"{user.user_id} is sent the count {count} in {room_id}, not {unread}"
        receipts = {
            user_id: event_id
            for event in response["ephemeral"]["events"]
            if event["type"] == "m.receipt"
            for event_id, kinds in event["content"].items()
            for user_id in kinds.get("m.read", {})
        }
        for (stored_in, user_id), (event_id, _) in self.tables.receipts.items():
            if stored_in == room_id and receipts.get(user_id) != event_id:
                yield f"the receipt of {user_id} is {receipts.get(user_id)}, not {event_id}"


def _read_without_receipt(user_id: str, events: Sequence[TableEvent]) -> int:
    """Return the position up to which a user has read by joining, or by sending."""
    position, is_joined = 0, False
    for event in events:
        is_sent = event.sender == user_id and event.state_key is None
        is_own = event.type == "m.room.member" and event.state_key == user_id
        if is_sent or (is_own and event.membership == JOIN and not is_joined):
            position = event.stream_id
        if is_own:
            is_joined = event.membership == JOIN
    return position


def check_room(events: Sequence[TableEvent], state: dict[tuple[str, str], str]) -> Iterator[str]:
    """Yield forks, and where the state is not what the events lead to.

    All events are of this server, so each one follows the last one.
    """
    for before, event in pairwise(events):
        if event.prev_events != (before.event_id,):
            yield (
                f"{event.event_id} of {event.writer} follows {event.prev_events}, not"
                f" {before.event_id} of {before.writer}"
            )
    resulting = {
        (event.type, event.state_key): event.event_id
        for event in events
        if event.state_key is not None
    }
    for key in state.keys() | resulting.keys():
        if state.get(key) != resulting.get(key):
            yield f"the state {key} is {state.get(key)}, not {resulting.get(key)}"


def check_timeline(user_id: str, view: RoomView, events: Sequence[TableEvent]) -> Iterator[str]:
    """Yield the events that a client has in the wrong order, and those that it missed."""
    index_of = {event.event_id: index for index, event in enumerate(events)}
    unknown = [event_id for event_id in view.timeline if event_id not in index_of]
    if unknown:
        yield f"{user_id} saw {unknown}, which are not stored"
        return
    indexes = [index_of[event_id] for event_id in view.timeline]
    if indexes != sorted(indexes):
        yield f"{user_id} saw events of {events[0].room_id} in another order: {indexes}"
    is_joined = False
    for event in events[min(indexes, default=0) :]:
        if event.type == "m.room.member" and event.state_key == user_id:
            is_joined = event.membership == JOIN
        if is_joined and event.event_id not in view.known and view.timeline:
            yield f"{user_id} never saw {event.event_id} of {event.room_id}"
