"""A malicious server: it is in rooms like any other, and breaks every rule that it can.

It keeps what a server has to know of a room, and computes the state before its events as the others
do, so that its lies are chosen: an event is wrong in one respect only. What it answers is in
`evil_answers`.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import orjson

from hs.core.canonical_json import canonical_json
from hs.core.errors import RemoteFault
from hs.core.events.build import sign_template, with_signatures
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import ROOM_VERSIONS
from hs.services.federation.requests import events as requests
from hs.services.federation.requests.membership import make_membership, send_join
from hs.services.federation_client.client import FederationClient, segment
from tests.simulation.evil_answers import EvilAnswers
from tests.simulation.evil_room import EVIL_BODY, NAME, USER, EvilRoom
from tests.simulation.network import SimulatedNetwork, SimulatedTransport
from tests.support.peers import History, signer_of


@attrs.define(eq=False)
class Mallory:
    """The malicious server.

    No honest server may show an event of `never_shown`, or the body EVIL_BODY.
    """

    network: SimulatedNetwork
    honest: list[ServerName]
    rooms: dict[RoomID, EvilRoom] = attrs.Factory(dict)
    never_shown: set[EventID] = attrs.Factory(set)
    counts: dict[str, int] = attrs.Factory(dict)
    answers: EvilAnswers = attrs.field(init=False)
    _number: int = 0

    def __attrs_post_init__(self) -> None:
        self.answers = EvilAnswers(self.rooms, self._chance)
        self.network.nodes[NAME] = self.answers

    @property
    def _chance(self) -> random.Random:
        return self.network.chance

    @property
    def _client(self) -> FederationClient:
        return FederationClient(signer_of(NAME), SimulatedTransport(self.network, NAME))

    async def join(self, room_id: RoomID, server: ServerName) -> None:
        """Join a room through a server."""
        try:
            template = await make_membership(self._client, server, "join", room_id, USER)
            rules = ROOM_VERSIONS[template.room_version]
            pdu = dict(template.event)
            if not rules.event_id_is_hash:
                pdu["event_id"] = f"$join{self._next()}:{NAME}"
                pdu["origin"] = NAME
            event = sign_template(pdu, rules, signer_of(NAME))
            sent = await send_join(self._client, server, event)
        except RemoteFault:
            return
        history = History(template.room_version, room_id=room_id)
        state = [parse_pdu(orjson.loads(each), rules) for each in sent.state]
        for each in sent.auth_chain:
            cited = parse_pdu(orjson.loads(each), rules)
            history.events[cited.event_id] = cited
        for known in state:
            history.events[known.event_id] = known
        keys = {(each.type, each.state_key or ""): each.event_id for each in state}
        empty = history.before(())
        join_event = parse_pdu(orjson.loads(sent.event), rules) if sent.event != b"null" else event
        history.events[join_event.event_id] = join_event
        history.states[join_event.event_id] = empty.update(
            {**keys, ("m.room.member", USER): join_event.event_id}
        )
        history.ends = [join_event.event_id]
        room = EvilRoom(room_id, history, list(self.honest), [join_event.event_id])
        self.rooms[room_id] = room

    # Acting

    async def act(self) -> None:
        """Do something wrong, or right, in a room."""
        rooms = list(self.rooms.values())
        if not rooms or self.answers.is_quiet:
            return
        room = self._chance.choice(rooms)
        await self._fetch_missing(room)
        action = self._chance.choice(self._actions())
        self.counts[action.__name__] = self.counts.get(action.__name__, 0) + 1
        self.network.trace.note(NAME, action.__name__, room.room_id)
        await action(room)

    def _actions(self) -> Sequence[Callable[[EvilRoom], Any]]:
        return (
            self.say,
            self.say,
            self.set_topic,
            self.join_again,
            self.join_again,
            self.sign_badly,
            self.change_content,
            self.exceed_power,
            self.exceed_power,
            self.forge_sender,
            self.cite_unknown,
            self.cite_wrong_auth_events,
            self.cite_superseded_auth_events,
            self.defy_removal,
            self.defy_removal,
            self.defy_removal,
            self.cite_old_events,
            self.cite_rejected,
            self.be_authorized_by_rejected,
            self.equivocate,
            self.equivocate,
            self.replay,
            self.withhold,
            self.withhold,
            self.fork,
            self.send_nonsense,
        )

    async def say(self, room: EvilRoom) -> None:
        """Send a proper message, to some servers at least."""
        event = self._message(room)
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def set_topic(self, room: EvilRoom) -> None:
        """Send a topic, which may be allowed."""
        event = self._draft(room, "m.room.topic", {"topic": str(self._next())}, "")
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def join_again(self, room: EvilRoom) -> None:
        """Join after having been kicked, which may be allowed."""
        event = self._draft(room, "m.room.member", {"membership": "join"}, USER)
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def sign_badly(self, room: EvilRoom) -> None:
        """Send a message with a wrong signature."""
        event = self._message(room, EVIL_BODY)
        signature = encode_base64(self._chance.randbytes(64))
        signatures: dict[str, Any] = {NAME: {signer_of(NAME).key.key_id: signature}}
        self.never_shown.add(event.event_id)
        await self._send(room, [with_signatures(event, signatures)], room.servers)

    async def change_content(self, room: EvilRoom) -> None:
        """Send a message whose content is not what was hashed."""
        event = self._message(room)
        content = {"msgtype": "m.text", "body": EVIL_BODY}
        pdu = {**event.pdu, "content": content}
        changed = attrs.evolve(event, pdu=pdu, content=content, canonical=canonical_json(pdu))
        self._add(room, event)  # its redacted form is accepted
        await self._send(room, [changed], room.servers)

    async def exceed_power(self, room: EvilRoom) -> None:
        """Send a change of the state that the sender has no power for."""
        founder = next(iter(room.history.states.values()))["m.room.create", ""]
        admin = room.history.events[founder].sender
        event_type, content, state_key = self._chance.choice(
            (
                ("m.room.power_levels", {"users": {USER: 100}}, ""),
                ("m.room.member", {"membership": "ban"}, admin),
                ("m.room.member", {"membership": "leave"}, admin),
                ("m.room.member", {"membership": "join"}, "@other:mallory.example"),
                ("m.room.create", {"creator": USER}, ""),
                ("m.room.join_rules", {"join_rule": "invite"}, ""),
            )
        )
        event = self._draft(room, event_type, content, state_key)
        if not room.is_allowed(event):
            self.never_shown.add(event.event_id)
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def forge_sender(self, room: EvilRoom) -> None:
        """Send a message of a user of another server."""
        event = self._message(room, EVIL_BODY)
        victim = f"@u0:{self._chance.choice(room.servers)}"
        pdu = {**event.pdu, "sender": victim}
        forged = sign_template(pdu, event.rules, signer_of(NAME))
        self.never_shown.add(forged.event_id)
        await self._send(room, [forged], room.servers)

    async def cite_unknown(self, room: EvilRoom) -> None:
        """Send a message after an event that does not exist."""
        event = self._message(room)
        missing = (
            f"${encode_base64(self._chance.randbytes(32)).replace('/', '_').replace('+', '-')}"
        )
        if not event.rules.event_id_is_hash:
            return
        field = self._chance.choice(("prev_events", "prev_events", "auth_events"))
        pdu = {**event.pdu, field: [*event.pdu[field], missing]}
        wrong = sign_template(pdu, event.rules, signer_of(NAME))
        self.never_shown.add(wrong.event_id)
        await self._send(room, [wrong], room.servers)

    async def cite_wrong_auth_events(self, room: EvilRoom) -> None:
        """Send a message with auth events that do not belong there, or without its own."""
        event = self._message(room)
        state = room.history.before(event.prev_events)
        cited = list(event.auth_events)
        extra = [each for key, each in state.items() if each not in cited]
        if extra and self._chance.random() < 0.5:
            cited.append(self._chance.choice(sorted(extra)))
        else:
            cited.remove(state["m.room.member", USER])
        wrong = room.history.draft(
            USER, event.type, event.content, after=event.prev_events, auth_events=cited
        )
        self.never_shown.add(wrong.event_id)
        await self._send(room, [wrong], room.servers)

    async def cite_superseded_auth_events(self, room: EvilRoom) -> None:
        """Send an event with auth events that are older or newer than the state before it."""
        event_type, content, state_key = self._chance.choice(
            (
                ("m.room.message", {"msgtype": "m.text", "body": f"evil {self._next()}"}, None),
                ("m.room.power_levels", {"users": {USER: 50}}, ""),
                ("m.room.member", {"membership": "join", "displayname": str(self._next())}, USER),
            )
        )
        accepted = [each for each in room.history.states if each not in room.rejected]
        old = [self._chance.choice(accepted)] if self._chance.random() < 0.5 else None
        draft = self._draft(room, event_type, content, state_key, after=old)
        events = room.history.events
        superseded = [
            (cited, each)
            for cited in draft.auth_events
            for each, event in sorted(events.items())
            if (event.type, event.state_key) == (events[cited].type, events[cited].state_key)
            and each != cited
            and each not in room.rejected
        ]
        if not superseded:
            return
        right, wrong = self._chance.choice(superseded)
        auth_events = [wrong if each == right else each for each in draft.auth_events]
        event = room.history.draft(
            USER, event_type, content, state_key, after=draft.prev_events, auth_events=auth_events
        )
        if not room.is_allowed(event):
            self.never_shown.add(event.event_id)
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def defy_removal(self, room: EvilRoom) -> None:
        """Join again after having been kicked, and send a message from before that.

        An earlier join and the present state allow it, the state before it does not.
        """
        events = room.history.events
        own = [
            each
            for each in room.history.states
            if (events[each].type, events[each].state_key) == ("m.room.member", USER)
            and each not in room.rejected
        ]
        removals = [each for each in own if events[each].content["membership"] != "join"]
        joins = [each for each in own if events[each].content["membership"] == "join"]
        if not removals:
            return
        await self.join_again(room)
        removal = self._chance.choice(removals)
        draft = self._message(room, EVIL_BODY, after=[removal])
        auth_events = [each for each in draft.auth_events if each not in own]
        event = room.history.draft(
            USER,
            draft.type,
            draft.content,
            after=[removal],
            auth_events=[*auth_events, self._chance.choice(joins)],
        )
        if not room.is_allowed(event):
            self.never_shown.add(event.event_id)
        self._add(room, event)
        await self._send(room, [event], room.servers)

    async def cite_old_events(self, room: EvilRoom) -> None:
        """Send a message after old events, as if nothing had happened since."""
        accepted = [each for each in room.history.states if each not in room.rejected]
        after = [self._chance.choice(accepted)]
        event = self._message(room, after=after)
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def cite_rejected(self, room: EvilRoom) -> None:
        """Send a message after an event that is to be rejected."""
        if not room.rejected:
            return
        after = [*room.tips[-2:], self._chance.choice(sorted(room.rejected))]
        event = self._message(room, after=after)
        self._add(room, event)
        await self._send(room, [event], self._some(room))

    async def be_authorized_by_rejected(self, room: EvilRoom) -> None:
        """Send a message that a rejected change of the power levels would allow."""
        evil = self._draft(room, "m.room.power_levels", {"users": {USER: 100}}, "")
        if room.is_allowed(evil):
            return
        self._add(room, evil)
        state = room.history.before(evil.prev_events)
        levels = state["m.room.power_levels", ""]
        cited = [each for each in evil.auth_events if each != levels]
        event = room.history.draft(
            USER,
            "m.room.name",
            {"name": EVIL_BODY},
            "",
            after=[evil.event_id],
            auth_events=[*cited, evil.event_id],
        )
        self._add(room, event)
        self.never_shown.update((evil.event_id, event.event_id))
        await self._send(room, [evil, event], self._some(room))

    async def equivocate(self, room: EvilRoom) -> None:
        """Send different events in the same place to different servers."""
        tips = room.tips[-2:]
        kind = self._chance.choice(("m.room.topic", "m.room.name", "m.room.message", "leave"))
        events = []
        for _ in range(2):
            number = str(self._next())
            if kind == "leave":
                content = {"membership": "join", "displayname": number}
                event = self._draft(room, "m.room.member", content, USER, after=tips)
            elif kind == "m.room.message":
                event = self._message(room, after=tips)
            else:
                content = {kind.rpartition(".")[2]: number}
                event = self._draft(room, kind, content, "", after=tips)
            self._add(room, event)
            events.append(event)
        for server in room.servers:
            await self._send(room, [self._chance.choice(events)], [server])

    async def replay(self, room: EvilRoom) -> None:
        """Send events again, of this server and of others, in any order."""
        events = list(room.history.states)
        again = self._chance.sample(events, min(len(events), 8))
        await self._send(room, [room.history.events[each] for each in again], self._some(room))

    async def withhold(self, room: EvilRoom) -> None:
        """Send an event without the one before it, which this server gives to few."""
        is_topic = self._chance.random() < 0.5
        first = (
            self._draft(room, "m.room.topic", {"topic": str(self._next())}, "")
            if is_topic
            else self._message(room)
        )
        self._add(room, first)
        room.withheld.add(first.event_id)
        second = self._message(room, after=[first.event_id])
        self._add(room, second)
        await self._send(room, [second], self._some(room))

    async def fork(self, room: EvilRoom) -> None:
        """Add many forward extremities."""
        tips = room.tips[-1:]
        events = [self._message(room, after=tips) for _ in range(12)]
        for event in events:
            self._add(room, event)
        await self._send(room, events, self._some(room))

    async def send_nonsense(self, room: EvilRoom) -> None:
        """Send a transaction that is none."""
        nonsense: Sequence[Any] = (
            {"room_id": room.room_id},
            {"room_id": room.room_id, "type": "m.room.message", "prev_events": "no", "depth": -1},
            {**self._message(room).pdu, "depth": 2**60},
            {**self._message(room).pdu, "signatures": {}},
            {**self._message(room).pdu, "room_id": "!other:mallory.example"},
            "no event",
            None,
        )
        content = {"origin": NAME, "origin_server_ts": 0, "pdus": [self._chance.choice(nonsense)]}
        await self._put(self._chance.choice(room.servers), orjson.dumps(content))

    # Helpers

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _some(self, room: EvilRoom) -> list[ServerName]:
        count = self._chance.choice((1, 1, 2, len(room.servers)))
        return self._chance.sample(room.servers, min(count, len(room.servers)))

    def _message(
        self, room: EvilRoom, body: str = "", after: Sequence[EventID] | None = None
    ) -> Event:
        content = {"msgtype": "m.text", "body": body or f"evil {self._next()}"}
        return self._draft(room, "m.room.message", content, None, after=after)

    def _draft(
        self,
        room: EvilRoom,
        event_type: str,
        content: dict[str, Any],
        state_key: str | None,
        after: Sequence[EventID] | None = None,
    ) -> Event:
        tips = room.tips[-self._chance.choice((1, 2, 3)) :] if after is None else after
        return room.history.draft(USER, event_type, content, state_key, after=list(tips))

    def _add(self, room: EvilRoom, event: Event) -> None:
        if event.event_id not in room.history.states:
            room.add(event)

    async def _fetch_missing(self, room: EvilRoom) -> None:
        """Ask for events that this server has not been sent."""
        for _ in range(10):
            missing = {each for event in room.others.values() for each in room.gap_before(event)}
            missing -= room.others.keys()
            if not missing:
                return
            server = self._chance.choice(room.servers)
            for event_id in sorted(missing)[:5]:
                try:
                    room.learn(await requests.get_event(self._client, server, event_id))
                except RemoteFault:
                    return

    async def _send(
        self, room: EvilRoom, events: Sequence[Event], servers: Sequence[ServerName]
    ) -> None:
        pdus = b",".join(event.canonical for event in events)
        body = b'{"origin":"%b","origin_server_ts":1,"pdus":[%b]}' % (NAME.encode(), pdus)
        for server in servers:
            await self._put(server, body)

    async def _put(self, server: ServerName, body: bytes) -> None:
        uri = f"/_matrix/federation/v1/send/{segment(str(self._next()))}"
        try:
            await self._client.request(server, "PUT", uri, body)
        except RemoteFault as fault:
            self.network.trace.note(NAME, "got", fault)
