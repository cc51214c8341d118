"""Rooms as other servers create them: real signed events, forked and merged as a test needs.

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
from hs.core.events.build import EventDraft, GraphPosition, build_event
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, ServerName, UserID, server_of
from hs.core.signing.keys import Signer, SigningKey, VerifyKey
from hs.core.stateres.resolve import resolve
from hs.core.versions import ROOM_VERSIONS
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.rooms.append.hot_room import encoded_reference_hash

ADMIN = UserID("@admin:one.example")
BERT = UserID("@bert:two.example")
CORA = UserID("@cora:three.example")
DORA = UserID("@dora:one.example")
PEERS = (ADMIN, BERT, CORA, DORA)
TEST_SERVER = ServerName("test.example")

State = Map[StateKey, EventID]
Resolve = Callable[[Sequence[State], Mapping[EventID, Event]], Mapping[StateKey, EventID]]


def signer_of(server: ServerName) -> Signer:
    """Return the signer of a server; the key is derived from the name."""
    test_seed = bytes(range(32))  # of the server under test
    seed = test_seed if server == TEST_SERVER else hashlib.sha256(server.encode()).digest()
    return Signer(server, SigningKey.from_seed("key", seed))


class AllKeysKeyRing:
    """A KeyRing that knows the keys of all servers."""

    async def keys_for(
        self, needs: Collection[VerifyKeyRequest]
    ) -> Mapping[VerifyKeyRequest, Mapping[str, VerifyKey]]:
        """Return the one key of each server."""
        keys = {need: signer_of(need.server).key.verify_key for need in needs}
        return {need: {key.key_id: key} for need, key in keys.items()}


def resolved_by_core(
    states: Sequence[State], events: Mapping[EventID, Event]
) -> Mapping[StateKey, EventID]:
    """Resolve states with all events in memory."""
    return resolve(next(iter(events.values())).rules, states, events)


@attrs.define
class History:
    """The events of a room, and the state after each; `ends` are its forward extremities."""

    version: str
    resolve: Resolve = resolved_by_core
    events: dict[EventID, Event] = attrs.Factory(dict)
    states: dict[EventID, State] = attrs.Factory(dict)
    ends: list[EventID] = attrs.Factory(list)
    room_id: RoomID | None = RoomID("!room:one.example")
    first: EventID | None = None  # the event that the room is seeded with

    def begin(self, *, join_rule: str = "public", levels: Mapping[str, int] | None = None) -> None:
        """Create the room's initial state; the last of its events becomes `first`."""
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
        sticky_ms: int | None = None,
    ) -> Event:
        """Add an event after others, by default after all forward extremities.

        Raises: Forbidden.
        """
        event = self.draft(
            sender,
            event_type,
            content,
            state_key,
            after=after,
            redacts=redacts,
            sticky_ms=sticky_ms,
        )
        before = self.before(event.prev_events)
        check_auth(event, {key: self.events[event_id] for key, event_id in before.items()})
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
        sticky_ms: int | None = None,
    ) -> Event:
        """Build an event without checking or adding it."""
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
            hashes = {
                cited_id: encoded_reference_hash(self.events[cited_id])
                for cited_id in (*prevs, *cited)
            }
        place = GraphPosition(
            room_id=self.room_id,
            prev_events=prevs,
            auth_events=cited,
            depth=max((self.events[prev_id].depth for prev_id in prevs), default=0) + 1,
            origin_server_ts=1_700_000_000_000 + number,
            event_id=event_id,
            reference_hashes=hashes,
        )
        draft = EventDraft(event_type, sender, content, state_key, redacts, sticky_ms=sticky_ms)
        return build_event(draft, place, rules, signer_of(server_of(sender)))

    def keep(self, event: Event, *, rejected: bool = False) -> None:
        """Add an event, whoever has built it."""
        state = self.before(event.prev_events)
        if event.state_key is not None and not rejected:
            state = state.set((event.type, event.state_key), event.event_id)
        self.events[event.event_id] = event
        self.room_id = event.room_id
        self.states[event.event_id] = state
        self.ends = [end for end in self.ends if end not in event.prev_events]
        self.ends.append(event.event_id)

    def before(self, prev_events: Sequence[EventID]) -> State:
        """Return the state after some events."""
        states = list(dict.fromkeys(self.states[prev_id] for prev_id in prev_events))
        if len(states) < 2:
            return states[0] if states else Map()
        return Map(self.resolve(states, self.events))

    def seed(self) -> tuple[list[bytes], list[bytes], bytes]:
        """Return the state before `first`, its auth chain, and `first`, as another server sends
        them.
        """
        assert self.first is not None
        event = self.events[self.first]
        state = [self.events[state_id] for state_id in self.before(event.prev_events).values()]
        chain: dict[EventID, Event] = {}
        waiting = [event, *state]
        while waiting:
            for cited in waiting.pop().auth_events:
                if cited not in chain:
                    chain[cited] = self.events[cited]
                    waiting.append(chain[cited])
        return _pdus(state), _pdus(chain.values()), event.canonical

    def later(self) -> list[Event]:
        """Return the events after `first`, in the order in which they were created."""
        ids = list(self.events)
        assert self.first is not None
        return [self.events[event_id] for event_id in ids[ids.index(self.first) + 1 :]]


def _pdus(events: Collection[Event]) -> list[bytes]:
    return [event.canonical for event in events]


def random_history(version: str, seed: int, steps: int, resolve: Resolve) -> History:
    """Create a room in which users act at random, after any of its recent events."""
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


Change = tuple[str, Mapping[str, Any], str | None]


def _try(history: History, sender: UserID, change: Change, after: list[EventID] | None) -> None:
    try:
        history.add(sender, *change, after=after)
    except Forbidden:
        return


def _random_change(
    history: History, sender: UserID, after: Sequence[EventID], rng: random.Random
) -> Change:
    target = rng.choice(PEERS[1:])  # the admin must stay
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
