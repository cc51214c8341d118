"""Our processes are killed while messages flow to and from Synapse: nothing is lost or doubled."""

import logging
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from tests.support.servers.http_client import ConnectionLost
from tests.support.servers.matrix_user import WAIT_S, MatrixUser, log_in, path_of, sign_up
from tests.support.servers.mixed_federation import MixedFederation, mixed_federation
from tests.support.web import WebResponse

pytestmark = [pytest.mark.process, pytest.mark.synapse]

log = logging.getLogger(__name__)

RETRY_S = 0.1
UNREAD = 5
BETWEEN_KILLS = 10  # messages that each user reads before the next kill


@pytest.fixture(params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])])
def mixed(request: pytest.FixtureRequest, python_with_synapse: Path) -> Iterator[MixedFederation]:
    """Both servers, for one test."""
    postgres, redis = None, None
    if request.param == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with mixed_federation(request.param, python_with_synapse, postgres, redis) as running:
        yield running


@attrs.define
class Ledger:
    """What was acknowledged to a sender: the event IDs by text, and the to-device messages."""

    events: dict[str, str] = attrs.Factory(dict)
    to_device: list[str] = attrs.Factory(list)


@attrs.define
class Reader:
    """A device that syncs all the time, and its to-device messages."""

    user: MatrixUser
    to_device: list[str] = attrs.Factory(list)
    _news: trio.Condition = attrs.Factory(trio.Condition)

    async def run(self) -> None:
        """Sync until cancelled."""
        while True:
            try:
                await self.user.sync()
            except (ConnectionLost, OSError, AssertionError):
                # The process was killed, or it is starting.
                await trio.sleep(RETRY_S)
                continue
            async with self._news:
                self.to_device = [
                    message["content"]["body"] for message in self.user.view.to_device
                ]
                self._news.notify_all()

    async def wait_for(self, count: int) -> None:
        """Wait until a number of to-device messages has been read."""
        with trio.fail_after(WAIT_S):
            async with self._news:
                while len(self.to_device) < count:
                    await self._news.wait()


async def persist(user: MatrixUser, target: str, body: object) -> WebResponse:
    """Repeat a request with a transaction ID until it is acknowledged."""
    while True:
        try:
            response = await user.request("PUT", target, body)
        except (ConnectionLost, OSError):
            await trio.sleep(RETRY_S)
            continue
        if response.status == 200:
            return response
        assert response.status in (500, 502, 503), response.body
        await trio.sleep(RETRY_S)


async def send_all_the_time(
    user: MatrixUser, room_ids: list[str], reader: Reader, ledger: Ledger, stop: trio.Event
) -> None:
    """Send messages to rooms and to a device until asked to stop.

    The reader may be a few messages behind: else the faster server would only measure the other.
    """
    number = 0
    while not stop.is_set():
        number += 1
        await reader.wait_for(number - UNREAD)
        text = f"{number} of {user.user_id}"
        for room_id in room_ids:
            target = path_of("rooms", room_id, "send", "m.room.message", f"killed{number}")
            response = await persist(user, target, {"msgtype": "m.text", "body": text})
            event_id = response.json["event_id"]
            assert ledger.events.setdefault(f"{room_id} {text}", event_id) == event_id
        target = path_of("sendToDevice", "test.message", f"killed{number}")
        messages = {reader.user.user_id: {reader.user.device_id: {"body": text}}}
        await persist(user, target, {"messages": messages})
        ledger.to_device.append(text)


async def test_nothing_is_lost_when_our_processes_are_killed(mixed: MixedFederation) -> None:
    ours, theirs = (
        await sign_up(mixed.hs.ports, "ours"),
        await sign_up(mixed.synapse.ports, "theirs"),
    )
    rooms = []
    for creator, joiner in ((ours, theirs), (theirs, ours)):
        room_id = await creator.create_room(preset="public_chat")
        await joiner.join(room_id, creator.server)
        rooms.append(room_id)
    for user in (ours, theirs):
        for room_id in rooms:
            await user.wait_for_section(room_id, "join")
    readers = [Reader(ours), Reader(theirs)]
    senders = [await log_in(ours), await log_in(theirs)]
    ledgers = [Ledger(), Ledger()]
    stop = trio.Event()

    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.run)
        async with trio.open_nursery() as sending:
            for sender, reader, ledger in zip(senders, reversed(readers), ledgers, strict=True):
                sending.start_soon(send_all_the_time, sender, rooms, reader, ledger, stop)
            for process in mixed.cluster.processes.values():
                await all_read_more(readers)
                log.info("killing %s", process.name)
                await trio.to_thread.run_sync(process.kill)
                await trio.to_thread.run_sync(process.start)
                log.info("%s runs again", process.name)
            await all_read_more(readers)
            stop.set()
        log.info("messages acknowledged: %s", [len(ledger.events) for ledger in ledgers])
        for reader, ledger in zip(readers, reversed(ledgers), strict=True):
            await reader.wait_for(len(ledger.to_device))
        nursery.cancel_scope.cancel()

    for reader, ledger in zip(readers, reversed(ledgers), strict=True):
        assert reader.to_device == ledger.to_device
    acknowledged = ledgers[0].events | ledgers[1].events
    for user in senders:
        for room_id in rooms:
            await check_history(user, room_id, acknowledged)
    for room_id in rooms:
        assert await ours.state(room_id) == await theirs.state(room_id)
    for user in (*senders, ours, theirs):
        await user.aclose()


async def all_read_more(readers: list[Reader]) -> None:
    """Wait until each reader has received more messages of the other server."""
    for reader in readers:
        await reader.wait_for(len(reader.to_device) + BETWEEN_KILLS)
        log.info("%s has read %d messages", reader.user.user_id, len(reader.to_device))


async def check_history(user: MatrixUser, room_id: str, acknowledged: dict[str, str]) -> None:
    """Wait until a room has all acknowledged messages, each once."""
    expected = {event_id for key, event_id in acknowledged.items() if key.startswith(f"{room_id} ")}
    with trio.fail_after(WAIT_S):
        while True:
            events = [e for e in await user.history(room_id) if e["type"] == "m.room.message"]
            found = [event["event_id"] for event in events]
            assert len(found) == len(set(found)), "doubled"
            if expected <= set(found):
                break
            await user.sync()
    bodies = [(event["sender"], event["content"]["body"]) for event in events]
    assert len(bodies) == len(set(bodies)), "doubled"
