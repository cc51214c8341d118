"""Clients that send and sync while their server is being killed, and checks of what they saw.

Senders record acknowledged messages in a ledger. Readers behave as clients do: they merge the
timelines of `/sync`, fill the gaps of limited ones with `/messages`, and retry failed requests.
"""

import random
from collections import Counter
from collections.abc import Set
from typing import Any
from urllib.parse import quote

import attrs
import trio

from tests.support.servers.http_client import ConnectionLost, HttpClient
from tests.support.web import WebResponse

CLIENT = "/_matrix/client/v3"
TO_DEVICE = "hs.test"
RETRY_S = 0.05
POLL_MS = 1_000
TIMELINE = 7  # short, so that timelines are often limited
ANSWER_S = 120.0  # longer than a process waits for another that is being restarted
LOOK_AGAIN_S = 5.0
REPEATED = 0.1  # the share of acknowledged requests that are sent once more
# The statuses of a process that is starting, or that cannot reach another one.
TRY_AGAIN = {502, 503, 504}


@attrs.define
class Person:
    """An account, which uses any process that responds."""

    ports: list[int]
    rng: random.Random
    user_id: str = ""
    token: str = ""

    async def request(self, method: str, target: str, json: Any = None) -> WebResponse:
        """Send a request until there is a response, which must be a success."""
        answer = await self.answer(method, target, json=json)
        assert answer.status == 200, (method, target, answer.status, answer.body)
        return answer

    async def answer(self, method: str, target: str, **more: Any) -> WebResponse:
        """Send a request until there is a response, to a random process at each attempt."""
        while True:
            async with HttpClient(self.rng.choice(self.ports), self.token or None) as client:
                try:
                    with trio.fail_after(ANSWER_S):
                        answer = await client.request(method, target, **more)
                except ConnectionLost:
                    await trio.sleep(RETRY_S)
                    continue
            if answer.status not in TRY_AGAIN:
                return answer
            await trio.sleep(RETRY_S)

    async def register(self, name: str) -> None:
        """Register an account."""
        account = {"username": name, "password": "p", "auth": {"type": "m.login.dummy"}}
        registered = (await self.request("POST", f"{CLIENT}/register", account)).json
        self.user_id, self.token = registered["user_id"], registered["access_token"]


@attrs.define
class Ledger:
    """The acknowledged messages: event IDs by text, and in order by room and sender.

    `to_devices` are the texts of the messages to devices, by user.
    """

    acknowledged: dict[str, str] = attrs.Factory(dict)
    in_order: dict[tuple[str, str], list[str]] = attrs.Factory(dict)
    to_devices: dict[str, set[str]] = attrs.Factory(dict)

    def note(self, room_id: str, sender: str, text: str, event_id: str) -> None:
        """Record an acknowledgement; a repeated one must have the same event ID."""
        if text not in self.acknowledged:
            self.in_order.setdefault((room_id, sender), []).append(event_id)
        assert self.acknowledged.setdefault(text, event_id) == event_id, text


async def send_until(stop: trio.Event, person: Person, room_id: str, ledger: Ledger) -> None:
    """Send messages one at a time, each with its own transaction ID, until stopped."""
    number = 0
    while not stop.is_set():
        number += 1
        text = f"{person.user_id}|{room_id}|{number}"
        await send_text(person, room_id, text, ledger)
        if person.rng.random() < REPEATED:
            await send_text(person, room_id, text, ledger)


async def send_text(person: Person, room_id: str, text: str, ledger: Ledger) -> None:
    """Send a message with its text as transaction ID, and record it when it is acknowledged."""
    target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/{quote(text, safe='')}"
    answer = await person.request("PUT", target, {"msgtype": "m.text", "body": text})
    ledger.note(room_id, person.user_id, text, answer.json["event_id"])


async def send_to_devices_until(
    stop: trio.Event, person: Person, receiver: str, ledger: Ledger
) -> None:
    """Send messages to the devices of a user, one at a time, until stopped."""
    number = 0
    while not stop.is_set():
        number += 1
        text = f"{person.user_id}|{receiver}|{number}"
        target = f"{CLIENT}/sendToDevice/{TO_DEVICE}/{quote(text, safe='')}"
        body = {"messages": {receiver: {"*": {"text": text}}}}
        for _ in range(1 + (person.rng.random() < REPEATED)):
            await person.request("PUT", target, body)
        ledger.to_devices.setdefault(receiver, set()).add(text)


@attrs.define
class Timeline:
    """A room's timeline as one reader has assembled it."""

    event_ids: list[str] = attrs.Factory(list)
    seen: set[str] = attrs.Factory(set)
    doubled: list[str] = attrs.Factory(list)
    found_early: set[str] = attrs.Factory(set)

    def add_found(self, event_ids: list[str]) -> None:
        """Append events of the history, which a later sync may contain."""
        self.found_early.update(event_ids)
        self.add(event_ids)

    def add(self, event_ids: list[str]) -> None:
        """Append newer events."""
        for event_id in event_ids:
            if event_id in self.found_early and event_id in self.seen:
                self.found_early.discard(event_id)
                continue
            if event_id in self.seen:
                self.doubled.append(event_id)
            self.seen.add(event_id)
            self.event_ids.append(event_id)


@attrs.define
class Reader:
    """A client that syncs; `gaps` counts the limited timelines that it has filled.

    `limit` is that of timelines. With `reads_all`, it looks for missed events in all of the
    history: those that other servers send late are not always the latest. It does so once more in
    the end, as people scroll up again: the servers that have the events may have been away.
    """

    person: Person
    limit: int = TIMELINE
    reads_all: bool = False
    since: str = ""
    timelines: dict[str, Timeline] = attrs.Factory(dict)
    inbox: list[str] = attrs.Factory(list)
    gaps: int = 0

    async def read_until(self, stop: trio.Event) -> None:
        """Sync until stopped, pausing at times so that timelines become limited."""
        while not stop.is_set():
            await self.sync()
            if self.person.rng.random() < 0.2:
                await trio.sleep(self.person.rng.uniform(0, 0.5))

    def seen(self) -> set[str]:
        """Return the events that were seen in any room."""
        return {event_id for timeline in self.timelines.values() for event_id in timeline.seen}

    async def catch_up(self, event_ids: set[str], inbox: Set[str] = frozenset()) -> None:
        """Sync until all the given events and messages to the device have been seen."""
        while not (inbox <= set(self.inbox) and event_ids <= self.seen()):
            await self.sync()
            if self.reads_all and self.gaps:
                await self._scroll_up()

    async def sync(self) -> None:
        """Sync once."""
        filter_json = quote(f'{{"room":{{"timeline":{{"limit":{self.limit}}}}}}}')
        target = f"{CLIENT}/sync?timeout={POLL_MS}&filter={filter_json}"
        if self.since:
            target += f"&since={quote(self.since)}"
        answer = (await self.person.request("GET", target)).json
        for room_id, room in answer.get("rooms", {}).get("join", {}).items():
            await self._merge(room_id, room["timeline"])
        messages = answer.get("to_device", {}).get("events", [])
        self.inbox += [
            message["content"]["text"] for message in messages if message["type"] == TO_DEVICE
        ]
        self.since = answer["next_batch"]

    async def _scroll_up(self) -> None:
        await trio.sleep(LOOK_AGAIN_S)
        for room_id, timeline in self.timelines.items():
            timeline.add_found(await self._gap(room_id, "", timeline.seen))

    async def _merge(self, room_id: str, timeline: dict[str, Any]) -> None:
        assembled = self.timelines.setdefault(room_id, Timeline())
        chunk = [event["event_id"] for event in timeline["events"]]
        if timeline.get("limited"):
            self.gaps += 1
            if self.reads_all:
                known = assembled.seen | set(chunk)
                assembled.add_found(await self._gap(room_id, timeline["prev_batch"], known))
            else:
                missed = await self._gap(room_id, timeline["prev_batch"], assembled.seen)
                assembled.add(missed)
        assembled.add(chunk)

    async def _gap(self, room_id: str, before: str, known: set[str]) -> list[str]:
        """Paginate backwards from a token to known events; return missed events, oldest first."""
        missed: list[str] = []
        room, limit = f"{CLIENT}/rooms/{quote(room_id)}", 500 if self.reads_all else 20
        while True:
            target = f"{room}/messages?dir=b&limit={limit}"
            if before:
                target += f"&from={quote(before)}"
            page = (await self.person.request("GET", target)).json
            for event in page["chunk"]:
                if event["event_id"] not in known:
                    missed.append(event["event_id"])
                elif not self.reads_all:
                    return missed[::-1]
            if "end" not in page:
                return missed[::-1]
            before = page["end"]


def faults_of(reader: Reader, ledger: Ledger) -> list[str]:
    """Return the differences between what a reader saw and the acknowledged messages."""
    faults = _faults_of_inbox(reader, ledger)
    for room_id, timeline in reader.timelines.items():
        faults += [f"{reader.person.user_id} saw {event_id} twice" for event_id in timeline.doubled]
        index_of = {event_id: index for index, event_id in enumerate(timeline.event_ids)}
        for (room, sender), event_ids in ledger.in_order.items():
            if room != room_id:
                continue
            missing = [event_id for event_id in event_ids if event_id not in index_of]
            faults += [f"{reader.person.user_id} never saw {event_id}" for event_id in missing]
            indexes = [index_of[event_id] for event_id in event_ids if event_id in index_of]
            if indexes != sorted(indexes) and not (reader.reads_all and reader.gaps):
                faults.append(f"{reader.person.user_id} saw {sender} out of order in {room}")
    return faults


def _faults_of_inbox(reader: Reader, ledger: Ledger) -> list[str]:
    user_id = reader.person.user_id
    seen = Counter(reader.inbox)
    lost = ledger.to_devices.get(user_id, set()) - seen.keys()
    return [f"{user_id} never received {text}" for text in lost] + [
        f"{user_id} received {text} {count} times" for text, count in seen.items() if count != 1
    ]
