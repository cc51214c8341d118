"""People who talk while their server is being killed: what was promised, and what each one saw.

Senders keep a ledger of acknowledged texts. Readers do what clients do: they merge timelines by
sync, fill the gaps of limited ones with /messages, and ask again when there is no answer.
"""

import random
from typing import Any
from urllib.parse import quote

import attrs
import trio

from tests.support.http_client import HttpClient, Hungup
from tests.support.web import Answer

CLIENT = "/_matrix/client/v3"
RETRY_S = 0.05
POLL_MS = 1_000
TIMELINE = 7  # short, so that timelines are often limited
ANSWER_S = 120.0  # longer than a process waits for another that is being restarted
REPEATED = 0.1  # of the acknowledged requests are sent once more
# What a server says that starts, or whose part is away.
TRY_AGAIN = {502, 503, 504}


@attrs.define
class Person:
    """An account, on whichever process is there."""

    ports: list[int]
    rng: random.Random
    user_id: str = ""
    token: str = ""

    async def ask(self, method: str, target: str, json: Any = None) -> Answer:
        """Ask until there is an answer, of another process each time there is none."""
        while True:
            async with HttpClient(self.rng.choice(self.ports), self.token or None) as client:
                try:
                    with trio.fail_after(ANSWER_S):
                        answer = await client.ask(method, target, json=json)
                except Hungup:
                    await trio.sleep(RETRY_S)
                    continue
            if answer.status not in TRY_AGAIN:
                assert answer.status == 200, (method, target, answer.status, answer.body)
                return answer
            await trio.sleep(RETRY_S)

    async def register(self, name: str) -> None:
        """Get an account."""
        account = {"username": name, "password": "p", "auth": {"type": "m.login.dummy"}}
        made = (await self.ask("POST", f"{CLIENT}/register", account)).json
        self.user_id, self.token = made["user_id"], made["access_token"]


@attrs.define
class Ledger:
    """What was acknowledged: the event ID of each text, and the texts of each sender in order."""

    acknowledged: dict[str, str] = attrs.Factory(dict)
    in_order: dict[tuple[str, str], list[str]] = attrs.Factory(dict)

    def note(self, room_id: str, sender: str, text: str, event_id: str) -> None:
        """Note an answer, which must be the same as any answer before."""
        if text not in self.acknowledged:
            self.in_order.setdefault((room_id, sender), []).append(event_id)
        assert self.acknowledged.setdefault(text, event_id) == event_id, text


async def send_until(stop: trio.Event, person: Person, room_id: str, ledger: Ledger) -> None:
    """Send message after message, one at a time, each with its transaction ID."""
    number = 0
    while not stop.is_set():
        number += 1
        text = f"{person.user_id}|{room_id}|{number}"
        await _send(person, room_id, text, ledger)
        if person.rng.random() < REPEATED:
            await _send(person, room_id, text, ledger)


async def _send(person: Person, room_id: str, text: str, ledger: Ledger) -> None:
    target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/{quote(text, safe='')}"
    answer = await person.ask("PUT", target, {"msgtype": "m.text", "body": text})
    ledger.note(room_id, person.user_id, text, answer.json["event_id"])


@attrs.define
class Timeline:
    """One room as one reader has put it together."""

    event_ids: list[str] = attrs.Factory(list)
    seen: set[str] = attrs.Factory(set)
    doubled: list[str] = attrs.Factory(list)

    def add(self, event_ids: list[str]) -> None:
        """Put newer events at the end."""
        for event_id in event_ids:
            if event_id in self.seen:
                self.doubled.append(event_id)
            self.seen.add(event_id)
            self.event_ids.append(event_id)


@attrs.define
class Reader:
    """A client that syncs; `gaps` counts the limited timelines it has filled."""

    person: Person
    since: str = ""
    timelines: dict[str, Timeline] = attrs.Factory(dict)
    gaps: int = 0

    async def read_until(self, stop: trio.Event) -> None:
        """Sync until told to stop, resting at times so that timelines become limited."""
        while not stop.is_set():
            await self.sync()
            if self.person.rng.random() < 0.2:
                await trio.sleep(self.person.rng.uniform(0, 0.5))

    async def catch_up(self, event_ids: set[str]) -> None:
        """Sync until all these events were seen."""
        while not event_ids <= {one for line in self.timelines.values() for one in line.seen}:
            await self.sync()

    async def sync(self) -> None:
        """Sync once."""
        filter_json = quote(f'{{"room":{{"timeline":{{"limit":{TIMELINE}}}}}}}')
        target = f"{CLIENT}/sync?timeout={POLL_MS}&filter={filter_json}"
        if self.since:
            target += f"&since={quote(self.since)}"
        answer = (await self.person.ask("GET", target)).json
        for room_id, room in answer.get("rooms", {}).get("join", {}).items():
            await self._merge(room_id, room["timeline"])
        self.since = answer["next_batch"]

    async def _merge(self, room_id: str, timeline: dict[str, Any]) -> None:
        ours = self.timelines.setdefault(room_id, Timeline())
        chunk = [event["event_id"] for event in timeline["events"]]
        if timeline.get("limited"):
            self.gaps += 1
            ours.add(await self._gap(room_id, timeline["prev_batch"], ours.seen))
        ours.add(chunk)

    async def _gap(self, room_id: str, before: str, known: set[str]) -> list[str]:
        """Page back from a token to what is known; oldest first."""
        missed: list[str] = []
        room = f"{CLIENT}/rooms/{quote(room_id)}"
        while True:
            target = f"{room}/messages?dir=b&limit=20&from={quote(before)}"
            page = (await self.person.ask("GET", target)).json
            for event in page["chunk"]:
                if event["event_id"] in known:
                    return missed[::-1]
                missed.append(event["event_id"])
            if "end" not in page:
                return missed[::-1]
            before = page["end"]


def faults_of(reader: Reader, ledger: Ledger) -> list[str]:
    """Compare what a reader has put together with what was acknowledged."""
    faults = []
    for room_id, line in reader.timelines.items():
        faults += [f"{reader.person.user_id} saw {one} twice" for one in line.doubled]
        place = {event_id: number for number, event_id in enumerate(line.event_ids)}
        for (room, sender), event_ids in ledger.in_order.items():
            if room != room_id:
                continue
            missing = [one for one in event_ids if one not in place]
            faults += [f"{reader.person.user_id} never saw {one}" for one in missing]
            places = [place[one] for one in event_ids if one in place]
            if places != sorted(places):
                faults.append(f"{reader.person.user_id} saw {sender} out of order in {room}")
    return faults
