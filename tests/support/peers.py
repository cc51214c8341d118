"""Rooms as other servers make them: real signed events, forked and merged at will.

history = History("11"); history.begin()
topic = history.add(ADMIN, "m.room.topic", {"topic": "x"}, "", after=[...])
"""

import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
from immutables import Map

from hs.core.auth.rules import check_auth
from hs.core.auth.selection import auth_types_for_event
from hs.core.errors import Forbidden
from hs.core.events.build import EventDraft, GraphPlace, build_event
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, ServerName, UserID, server_of
from hs.core.signing.keys import Signer, SigningKey, VerifyKey
from hs.core.stateres.resolve import resolve
from hs.core.versions import ROOM_VERSIONS
from hs.services.rooms.append.hot_room import reference_hash_text
from hs.services.rooms.receive.pdu_checks import KeyNeed

ADMIN = UserID("@admin:one.example")
BERT = UserID("@bert:two.example")
CORA = UserID("@cora:three.example")
DORA = UserID("@dora:one.example")
PEERS = (ADMIN, BERT, CORA, DORA)
TEST_SERVER = ServerName("test.example")

State = Map[StateKey, EventID]
Resolve = Callable[[Sequence[State], Mapping[EventID, Event]], Mapping[StateKey, EventID]]


def signer_of(server: ServerName) -> Signer:
    """Give the key of any server, always the same."""
    own = bytes(range(32))  # of the server under test
    seed = own if server == TEST_SERVER else hashlib.sha256(server.encode()).digest()
    return Signer(server, SigningKey.from_seed("key", seed))


class EveryKey:
    """A KeyRing that knows the keys of all servers."""

    async def keys_for(
        self, needs: Collection[KeyNeed]
    ) -> Mapping[KeyNeed, Mapping[str, VerifyKey]]:
        """Give the one key of each server."""
        keys = {need: signer_of(need.server).key.verify_key for need in needs}
        return {need: {key.key_id: key} for need, key in keys.items()}


def resolved_by_core(
    states: Sequence[State], events: Mapping[EventID, Event]
) -> Mapping[StateKey, EventID]:
    """Resolve states with all events in memory."""
    return resolve(next(iter(events.values())).rules, states, events)


@attrs.define
class History:
    """The events of a room, and the state after each; `ends` are those that nothing follows."""

    version: str
    resolve: Resolve = resolved_by_core
    events: dict[EventID, Event] = attrs.Factory(dict)
    states: dict[EventID, State] = attrs.Factory(dict)
    ends: list[EventID] = attrs.Factory(list)
    room_id: RoomID | None = RoomID("!room:one.example")
    first: EventID | None = None  # what the room is seeded with

    def begin(self, *, join_rule: str = "public", levels: Mapping[str, int] | None = None) -> None:
        """Make the room's first state; the last of its events is `first`."""
        rules = ROOM_VERSIONS[self.version]
        if rules.room_id_is_create_hash:
            self.room_id = None
        create = {"room_version": self.version, "creator": ADMIN}
        users = {ADMIN: 100, BERT: 50, **(levels or {})}
        if rules.privileged_creators:
            users.pop(ADMIN)
        self.add(ADMIN, "m.room.create", create, "")
        self.add(ADMIN, "m.room.member", {"membership": "join"}, ADMIN)
        self.add(ADMIN, "m.room.power_levels", {"users": users}, "")
        self.first = self.add(ADMIN, "m.room.join_rules", {"join_rule": join_rule}, "").event_id

    def add(
        self,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        after: Sequence[EventID] | None = None,
        redacts: EventID | None = None,
    ) -> Event:
        """Add an event after others, by default after all ends. Raises: Forbidden."""
        event = self.draft(sender, event_type, content, state_key, after=after, redacts=redacts)
        before = self.before(event.prev_events)
        check_auth(event, {key: self.events[each] for key, each in before.items()})
        self.keep(event)
        return event

    def draft(
        self,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        after: Sequence[EventID] | None = None,
        redacts: EventID | None = None,
        auth_events: Sequence[EventID] | None = None,
    ) -> Event:
        """Make an event without checking or keeping it."""
        rules = ROOM_VERSIONS[self.version]
        prevs = list(self.ends if after is None else after)
        before = self.before(prevs)
        keys = auth_types_for_event(rules, event_type, sender, state_key, content)
        cited = [before[key] for key in keys if key in before]
        cited = cited if auth_events is None else list(auth_events)
        number = len(self.events)
        hashes: dict[EventID, str] = {}
        event_id = None
        if not rules.event_id_is_hash:
            event_id = EventID(f"${number}x:{server_of(sender)}")
            hashes = {each: reference_hash_text(self.events[each]) for each in (*prevs, *cited)}
        place = GraphPlace(
            room_id=self.room_id,
            prev_events=prevs,
            auth_events=cited,
            depth=max((self.events[each].depth for each in prevs), default=0) + 1,
            origin_server_ts=1_700_000_000_000 + number,
            event_id=event_id,
            reference_hashes=hashes,
        )
        wanted = EventDraft(event_type, sender, content, state_key, redacts)
        return build_event(wanted, place, rules, signer_of(server_of(sender)))

    def keep(self, event: Event, *, rejected: bool = False) -> None:
        """Take an event in, whoever has made it."""
        state = self.before(event.prev_events)
        if event.state_key is not None and not rejected:
            state = state.set((event.type, event.state_key), event.event_id)
        self.events[event.event_id] = event
        self.room_id = event.room_id
        self.states[event.event_id] = state
        self.ends = [each for each in self.ends if each not in event.prev_events]
        self.ends.append(event.event_id)

    def before(self, prev_events: Sequence[EventID]) -> State:
        """Give the state after some events."""
        states = list(dict.fromkeys(self.states[each] for each in prev_events))
        if len(states) < 2:
            return states[0] if states else Map()
        return Map(self.resolve(states, self.events))

    def seed(self) -> tuple[list[bytes], list[bytes], bytes]:
        """Give what begins the room: the state before `first`, its auth chain, and `first`."""
        assert self.first is not None
        event = self.events[self.first]
        state = [self.events[each] for each in self.before(event.prev_events).values()]
        chain: dict[EventID, Event] = {}
        waiting = [event, *state]
        while waiting:
            for each in waiting.pop().auth_events:
                if each not in chain:
                    chain[each] = self.events[each]
                    waiting.append(chain[each])
        return _pdus(state), _pdus(chain.values()), event.canonical

    def later(self) -> list[Event]:
        """List the events after the first one, in the order in which they were made."""
        ids = list(self.events)
        assert self.first is not None
        return [self.events[each] for each in ids[ids.index(self.first) + 1 :]]


def _pdus(events: Collection[Event]) -> list[bytes]:
    return [event.canonical for event in events]


def random_history(version: str, seed: int, steps: int, resolve: Resolve) -> History:
    """Make a room in which peers do as they like, after any of its recent events."""
    rng = random.Random(seed)
    history = History(version, resolve)
    history.begin(join_rule=rng.choice(("public", "public", "invite")))
    for user in PEERS[1:3]:
        _try(history, user, ("m.room.member", {"membership": "join"}, user), None)
    assert history.first is not None
    start = list(history.events).index(history.first)
    for _ in range(steps):
        recent = list(history.events)[start:][-8:]
        after = rng.sample(recent, min(len(recent), rng.choice((1, 1, 1, 1, 2, 3))))
        sender = rng.choice((ADMIN, *PEERS))
        _try(history, sender, _random_change(history, sender, after, rng), after)
    return history


Wish = tuple[str, Mapping[str, Any], str | None]


def _try(history: History, sender: UserID, wish: Wish, after: list[EventID] | None) -> None:
    try:
        history.add(sender, *wish, after=after)
    except Forbidden:
        return


def _random_change(
    history: History, sender: UserID, after: Sequence[EventID], rng: random.Random
) -> Wish:
    target = rng.choice(PEERS[1:])  # somebody must stay
    match rng.choice(("say", "say", "topic", "levels", "kick", "ban", "join", "leave", "rule")):
        case "say":
            return "m.room.message", {"body": str(rng.random())}, None
        case "topic":
            return "m.room.topic", {"topic": str(rng.random())}, ""
        case "levels":
            state = history.before(after)
            users = history.events[state["m.room.power_levels", ""]].content["users"]
            chosen = rng.choice(PEERS[history.version == "12" :])
            return "m.room.power_levels", {"users": {**users, chosen: rng.choice((0, 50, 100))}}, ""
        case "rule":
            return "m.room.join_rules", {"join_rule": rng.choice(("public", "invite"))}, ""
        case "join" | "leave" as membership if sender != ADMIN:
            return "m.room.member", {"membership": membership}, sender
        case "kick":
            return "m.room.member", {"membership": "leave"}, target
        case "ban":
            return "m.room.member", {"membership": "ban"}, target
        case _:
            return "m.room.name", {"name": str(rng.random())}, ""
