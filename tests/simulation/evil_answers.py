"""What a malicious server answers: right or wrong events, others, none, or nothing at all.

It does not lie about the state before an event that it alone has: nobody could know better, and
honest servers that believed different lies would disagree for good.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote

import attrs
import orjson
import trio

from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.signing.signed_json import sign_json
from hs.services.federation_client.key_responses import KEYS_URI
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from tests.simulation.evil_room import EVIL_BODY, NAME, EvilRoom
from tests.simulation.network import NoAnswer
from tests.support.peers import signer_of


@attrs.define(eq=False)
class EvilAnswers:
    """Answers the requests of honest servers; they are right while `is_quiet`."""

    rooms: Mapping[RoomID, EvilRoom]
    _chance: random.Random
    is_quiet: bool = False

    async def answer(self, request: PeerRequest) -> PeerResponse:
        """Return a response, right or wrong. Raises: NoAnswer."""
        await trio.lowlevel.checkpoint()
        if request.uri == KEYS_URI:
            return _response(200, self._keys())
        if request.uri.startswith("/_matrix/federation/v1/send/"):
            return await self._receive(request)
        if not self.is_quiet:
            match self._chance.randrange(12):
                case 0:
                    return _response(500, {"errcode": "M_UNKNOWN", "error": "no"})
                case 1:
                    raise NoAnswer("the connection broke")
                case 2:
                    await trio.sleep(200)
                case 3:
                    return PeerResponse(200, {"content-type": "application/json"}, b"[[[[")
        return self._answer(request)

    async def _receive(self, request: PeerRequest) -> PeerResponse:
        for pdu in orjson.loads(request.body or b"{}").get("pdus", ()):
            room = self.rooms.get(RoomID(pdu.get("room_id", "")))
            if room is not None:
                room.learn(pdu)
        if not self.is_quiet and self._chance.random() < 0.1:
            return _response(self._chance.choice((500, 403)), {"errcode": "M_UNKNOWN"})
        return _response(200, {"pdus": {}})

    def _answer(self, request: PeerRequest) -> PeerResponse:
        path, _, query = request.uri.removeprefix("/_matrix/federation/v1/").partition("?")
        name, *arguments = map(unquote, path.split("/"))
        if name == "event":
            return self._event(EventID(arguments[0]))
        room = self.rooms.get(RoomID(arguments[0])) if arguments else None
        if room is None:
            return _response(404, {"errcode": "M_NOT_FOUND", "error": "no"})
        if name == "get_missing_events":
            body = orjson.loads(request.body or b"{}")
            found = self._before(room, body["latest_events"], body["limit"])
            return _response(200, {"events": self._spoil(room, found)})
        if name == "backfill":
            found = self._before(room, parse_qs(query)["v"], 20, inclusive=True)
            return _response(200, {"pdus": self._spoil(room, found)})
        if name not in ("event_auth", "state", "state_ids"):
            return _response(404, {"errcode": "M_UNRECOGNIZED", "error": "no"})
        event_id = EventID(arguments[1] if name == "event_auth" else parse_qs(query)["event_id"][0])
        event = room.history.events.get(event_id)
        if event is None or room.gap_before(event):
            return _response(404, {"errcode": "M_NOT_FOUND", "error": "no"})
        return self._state(room, name, event)

    def _event(self, event_id: EventID) -> PeerResponse:
        for room in self.rooms.values():
            if event_id in room.withheld and self._chance.random() < 0.8:
                continue
            event = room.history.events.get(event_id)
            if event is not None:
                (pdu,) = self._spoil(room, [event])[:1] or [event.pdu]
                return _response(200, {"origin": NAME, "origin_server_ts": 0, "pdus": [pdu]})
        return _response(404, {"errcode": "M_NOT_FOUND", "error": "no"})

    def _state(self, room: EvilRoom, name: str, event: Event) -> PeerResponse:
        history = room.history
        if name == "event_auth":
            chain = room.chain_of([event.event_id])
            return _response(200, {"auth_chain": [each.pdu for each in chain.values()]})
        state = list(history.before(event.prev_events).values())
        chain = room.chain_of(state)
        if name == "state_ids":
            return _response(200, {"pdu_ids": state, "auth_chain_ids": list(chain)})
        pdus = [history.events[each].pdu for each in state]
        auth_chain = [each.pdu for each in chain.values()]
        return _response(200, {"pdus": pdus, "auth_chain": auth_chain})

    def _before(
        self, room: EvilRoom, latest: Sequence[str], limit: int, *, inclusive: bool = False
    ) -> list[Event]:
        """Return events before others, without those that are withheld."""
        history = room.history
        unvisited = [EventID(each) for each in latest]
        found: dict[EventID, Event] = {}
        while unvisited and len(found) < limit:
            event_id = unvisited.pop(0)
            event = history.events.get(event_id)
            if event is None or event_id not in history.states or event_id in found:
                continue
            if event_id not in room.withheld and (inclusive or event_id not in latest):
                found[event_id] = event
            unvisited.extend(event.prev_events)
        return list(reversed(found.values()))

    def _spoil(self, room: EvilRoom, events: Sequence[Event]) -> list[Any]:
        """Return the PDUs of events; or others, fewer, or broken ones."""
        pdus: list[Any] = [each.pdu for each in events]
        if self.is_quiet or not pdus:
            return pdus
        match self._chance.randrange(8):
            case 0:
                return []
            case 1:
                self._chance.shuffle(pdus)
                return pdus[: len(pdus) // 2 + 1]
            case 2:
                others = list(room.history.events.values())
                return [each.pdu for each in self._chance.sample(others, min(3, len(others)))]
            case 3:
                # Not state: servers store it redacted, and would disagree about what it allows.
                return [
                    pdu if "state_key" in pdu else {**pdu, "content": {"body": EVIL_BODY}}
                    for pdu in pdus
                ]
            case 4:
                return [{**pdu, "signatures": {NAME: {"ed25519:key": "AAAA"}}} for pdu in pdus]
        return pdus

    def _keys(self) -> dict[str, Any]:
        key = signer_of(NAME).key.verify_key
        response = {
            "server_name": NAME,
            "valid_until_ts": 2**52,
            "verify_keys": {key.key_id: {"key": key.base64}},
            "old_verify_keys": {},
        }
        return sign_json(response, signer_of(NAME))


def _response(status: int, content: Any) -> PeerResponse:
    return PeerResponse(status, {"content-type": "application/json"}, orjson.dumps(content))
