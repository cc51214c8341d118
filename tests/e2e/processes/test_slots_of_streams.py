"""Two writers of receipts, typing and so on, one of which dies or hangs under load.

Users write through the main process, which owns none of these streams. What is measured is the
time until each of them is acknowledged again, and until what others see is right.
"""

import itertools
import logging
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import quote

import attrs
import pytest
import trio

from hs.repl.slots.assignment import slot_of
from tests.e2e.processes.test_slots import send_signal
from tests.support.ledger import CLIENT, Person
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

WRITERS: Final = ["persister1", "sync1"]
STREAMS: Final = ("account_data", "device_lists", "presence", "receipts", "to_device", "typing")
# About 10 seconds until slots pass to others, 5 more until requests that were sent to the process
# just before are given up, and some for a slow machine.
HEALED_S = 30.0
USERS = 4
EVENTS = 15
PAUSE_S = 0.05

log = logging.getLogger(__name__)

Json = dict[str, Any]


@attrs.define
class Member:
    """A user with a room of their own, in which the watcher is, too; `sent` are its events."""

    person: Person
    device_id: str
    room_id: str
    sent: list[str]
    received: list[int] = attrs.Factory(list)

    @property
    def room(self) -> str:
        """The path of the room."""
        return f"{CLIENT}/rooms/{quote(self.room_id)}"

    @property
    def own(self) -> str:
        """The path of the user."""
        return quote(self.person.user_id)


@attrs.define
class Watch:
    """What the watcher has seen, as the last response that tells of it says."""

    receipts: dict[str, str] = attrs.Factory(dict)
    typing: dict[str, list[str]] = attrs.Factory(dict)
    presence: dict[str, Json] = attrs.Factory(dict)
    changed: Counter[str] = attrs.Factory(Counter)

    def note(self, answer: Json) -> None:
        """Note a response of `/sync`."""
        self.changed.update(answer.get("device_lists", {}).get("changed", []))
        for event in answer.get("presence", {}).get("events", []):
            self.presence[event["sender"]] = event["content"]
        for room_id, room in answer.get("rooms", {}).get("join", {}).items():
            for event in room["ephemeral"]["events"]:
                if event["type"] == "m.typing":
                    self.typing[room_id] = event["content"]["user_ids"]
                for event_id, kinds in event["content"].items():
                    if event["type"] == "m.receipt" and "m.read" in kinds:
                        self.receipts[room_id] = event_id


@attrs.define
class Load:
    """Users who write to all streams; `done` are the numbers that were acknowledged, and when."""

    members: list[Member]
    watcher: Person
    watch: Watch = attrs.Factory(Watch)
    done: dict[tuple[str, str], tuple[int, float]] = attrs.Factory(dict)
    stop: trio.Event = attrs.Factory(trio.Event)

    async def write(self, stream: str, member: Member) -> None:
        """Write numbered changes to a stream until told to stop."""
        for number in itertools.count(1):
            if self.stop.is_set():
                return
            began = trio.current_time()
            await self._write(stream, member, number)
            self.done[stream, member.person.user_id] = number, began
            await trio.sleep(PAUSE_S)

    async def _write(self, stream: str, member: Member, number: int) -> None:
        request, user = member.person.request, member.own
        if stream == "account_data":
            await request("PUT", f"{CLIENT}/user/{user}/account_data/note", {"n": number})
        elif stream == "device_lists":
            name = {"display_name": str(number)}
            await request("PUT", f"{CLIENT}/devices/{member.device_id}", name)
        elif stream == "presence":
            status = {"presence": "online", "status_msg": str(number)}
            await request("PUT", f"{CLIENT}/presence/{user}/status", status)
        elif stream == "receipts":
            event_id = quote(member.sent[min(number, EVENTS) - 1])
            await request("POST", f"{member.room}/receipt/m.read/{event_id}", {})
        elif stream == "typing":
            typing = {"typing": number % 2 == 0, "timeout": 120_000}
            await request("PUT", f"{member.room}/typing/{user}", typing)
        else:
            messages = {"messages": {member.person.user_id: {"*": {"n": number}}}}
            for _ in range(1 + (number % 5 == 0)):  # some requests are repeated
                path = f"{CLIENT}/sendToDevice/m.test/{user}.{number}"
                await self.watcher.request("PUT", path, messages)

    async def follow(self, person: Person, note: Callable[[Json], None]) -> None:
        """Sync until cancelled, and note all responses."""
        since = ""
        while True:
            answer = await sync(person, since)
            note(answer)
            since = answer["next_batch"]

    async def wait_all_written(self, streams: tuple[str, ...] = STREAMS) -> dict[str, float]:
        """Wait until a request of each user to each stream succeeded that began from now on.

        Return how long that took, by stream.
        """
        began = trio.current_time()
        took: dict[str, float] = {}
        with trio.fail_after(HEALED_S):
            while len(took) < len(streams):
                for stream in set(streams) - set(took):
                    users = (member.person.user_id for member in self.members)
                    if all(self.done.get((stream, user), (0, 0.0))[1] > began for user in users):
                        took[stream] = round(trio.current_time() - began, 1)
                await trio.sleep(0.02)
        return took

    def last(self, stream: str, member: Member) -> int:
        """Return the last number that was acknowledged."""
        return self.done[stream, member.person.user_id][0]


async def sync(person: Person, since: str) -> Json:
    """Call `/sync`."""
    target = f"{CLIENT}/sync?timeout=1000&set_presence=offline"
    target += f"&since={quote(since)}" if since else ""
    answer: Json = (await person.request("GET", target)).json
    return answer


def numbers_in(answer: Json) -> list[int]:
    """Return the numbers of the messages to a device."""
    return [event["content"]["n"] for event in answer.get("to_device", {}).get("events", [])]


async def make_member(port: int, watcher: Person, number: int) -> Member:
    """Register a user who shares a room with the watcher."""
    person = Person([port], random.Random(number))
    await person.register(f"user{number}")
    created = await person.request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room_id = created.json["room_id"]
    await watcher.request("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    sent = []
    for count in range(EVENTS):
        target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/{count}"
        answer = await person.request("PUT", target, {"msgtype": "m.text", "body": "x"})
        sent.append(answer.json["event_id"])
    whoami = await person.request("GET", f"{CLIENT}/account/whoami")
    return Member(person, whoami.json["device_id"], room_id, sent)


@contextmanager
def running_writers(postgres: PostgresServer, redis: RedisServer) -> Iterator[Cluster]:
    """Run main, which writes events, and two writers of the other streams."""
    writers: dict[str, Any] = {**dict.fromkeys(STREAMS, WRITERS), "events": "main"}
    with running_cluster("T2", postgres, redis, stream_writers=writers) as cluster:
        yield cluster


@asynccontextmanager
async def writing(cluster: Cluster) -> AsyncIterator[Load]:
    """Write to all streams during the block, then check that all was done, and done once."""
    port = cluster.processes["main"].port
    watcher = Person([port], random.Random(0))
    await watcher.register("watcher")
    members: list[Member] = []

    async def add(number: int) -> None:
        members.append(await make_member(port, watcher, number))

    async with trio.open_nursery() as nursery:
        for number in range(USERS):
            nursery.start_soon(add, number)
    load = Load(members, watcher)
    async with trio.open_nursery() as following:
        following.start_soon(load.follow, watcher, load.watch.note)
        async with trio.open_nursery() as nursery:
            for member in members:
                following.start_soon(
                    load.follow,
                    member.person,
                    lambda answer, member=member: member.received.extend(numbers_in(answer)),
                )
                for stream in STREAMS:
                    nursery.start_soon(load.write, stream, member)
            await load.wait_all_written()
            yield load
            load.stop.set()
        with trio.move_on_after(HEALED_S):
            while differences(load):  # noqa: ASYNC110 - what others see
                await trio.sleep(0.2)
        assert differences(load) == []
        following.cancel_scope.cancel()
    await check_answers(load)


def differences(load: Load) -> list[str]:
    """Return what the watcher and the users have not seen as it was acknowledged."""
    watch, found = load.watch, []
    for member in load.members:
        user_id = member.person.user_id
        sent = list(range(1, load.last("to_device", member) + 1))
        receipt = member.sent[min(load.last("receipts", member), EVENTS) - 1]
        is_typing = load.last("typing", member) % 2 == 0
        seen = {
            "to_device": member.received == sent,
            "receipts": watch.receipts.get(member.room_id) == receipt,
            "typing": (user_id in watch.typing.get(member.room_id, [])) == is_typing,
            "presence": watch.presence.get(user_id, {}).get("status_msg")
            == str(load.last("presence", member)),
            "device_lists": watch.changed[user_id] > 0,
        }
        found += [f"{stream} of {user_id}" for stream, is_right in seen.items() if not is_right]
    return found


async def check_answers(load: Load) -> None:
    """Check what requests return."""
    for member in load.members:
        request, user = member.person.request, member.own
        note = (await request("GET", f"{CLIENT}/user/{user}/account_data/note")).json
        device = (await request("GET", f"{CLIENT}/devices/{member.device_id}")).json
        presence = (await request("GET", f"{CLIENT}/presence/{user}/status")).json
        assert note == {"n": load.last("account_data", member)}
        assert device["display_name"] == str(load.last("device_lists", member))
        assert presence["status_msg"] == str(load.last("presence", member))


Fault = Callable[[Cluster, Load], Coroutine[Any, Any, None]]


async def write_meanwhile(cluster: Cluster, *faults: Fault) -> None:
    """Write to all streams during faults."""
    async with writing(cluster) as load:
        for fault in faults:
            await fault(cluster, load)


async def kill_a_writer(cluster: Cluster, load: Load) -> None:
    """Kill the second writer; the first one takes over its users and rooms."""
    await trio.to_thread.run_sync(cluster.processes[WRITERS[1]].kill)
    log.info("seconds to recovery (killed): %s", await load.wait_all_written())


async def kill_the_writer_of_rooms_where_the_watcher_types(cluster: Cluster, load: Load) -> None:
    """Kill the second writer; who typed in its rooms, and does not say so again, vanishes."""
    rooms = {member.room_id for member in load.members}
    watcher = load.watcher.user_id
    for room_id in rooms:
        target = f"{CLIENT}/rooms/{quote(room_id)}/typing/{quote(watcher)}"
        await load.watcher.request("PUT", target, {"typing": True, "timeout": 120_000})

    def rooms_of_watcher() -> set[str]:
        return {room_id for room_id in rooms if watcher in load.watch.typing.get(room_id, [])}

    with trio.fail_after(HEALED_S):
        while rooms_of_watcher() != rooms:  # noqa: ASYNC110 - what others see
            await trio.sleep(0.05)
    await kill_a_writer(cluster, load)
    # The first start gives each writer every second slot.
    kept = {room_id for room_id in rooms if WRITERS[slot_of(room_id) % 2] == WRITERS[0]}
    with trio.fail_after(HEALED_S):
        while rooms_of_watcher() != kept:  # noqa: ASYNC110 - what others see
            await trio.sleep(0.05)


async def start_the_writer(cluster: Cluster, load: Load) -> None:
    """Start the second writer again; it gets its share by and by."""
    await trio.to_thread.run_sync(cluster.processes[WRITERS[1]].start)
    await trio.sleep(10)
    log.info("seconds to recovery (started): %s", await load.wait_all_written())


async def suspend_a_writer(cluster: Cluster, load: Load) -> None:
    """Stop the first writer for twenty seconds; it comes back and gets slots again."""
    first = cluster.processes[WRITERS[0]]
    send_signal(first, signal.SIGSTOP)
    began = time.monotonic()
    try:
        log.info("seconds to recovery (stopped): %s", await load.wait_all_written())
        await trio.sleep(20.0 - (time.monotonic() - began))
    finally:
        send_signal(first, signal.SIGCONT)
    await trio.sleep(8)
    await load.wait_all_written()


async def restart_a_writer(cluster: Cluster, load: Load) -> None:
    """Restart the first writer; it hands its slots over before it ends."""
    process = cluster.processes[WRITERS[0]]
    assert await trio.to_thread.run_sync(process.stop) == 0
    log.info("seconds to recovery (ended): %s", await load.wait_all_written())
    await trio.to_thread.run_sync(process.start)
    await trio.sleep(10)
    await load.wait_all_written()


def shares(postgres: PostgresServer, cluster: Cluster) -> dict[str, int]:
    """Return how many slots of these streams each process holds."""
    query = (
        "SELECT holder, count(*) FROM stream_slots WHERE stream <> 'events' "
        "GROUP BY holder ORDER BY holder"
    )
    rows = postgres.psql(query, database=cluster.database).split()
    return {holder: int(count) for holder, count in (row.split("|") for row in rows)}


def test_streams_of_a_killed_writer_are_written_by_the_other_one(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    with running_writers(postgres_server, redis) as cluster:
        assert shares(postgres_server, cluster) == dict.fromkeys(WRITERS, 128 * len(STREAMS))

        trio.run(write_meanwhile, cluster, kill_the_writer_of_rooms_where_the_watcher_types)

        assert shares(postgres_server, cluster) == {WRITERS[0]: 256 * len(STREAMS)}


@pytest.mark.long
def test_streams_heal_when_a_writer_is_stopped_the_other_killed_and_both_are_restarted(
    postgres_server: PostgresServer, redis: RedisServer
) -> None:
    with running_writers(postgres_server, redis) as cluster:
        faults = (suspend_a_writer, kill_a_writer, start_the_writer, restart_a_writer)
        trio.run(write_meanwhile, cluster, *faults)
