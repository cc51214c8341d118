"""Unread counts against a recount from the events, over random histories with restarts."""

import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import Count, RoomCounts
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.append.drafts import Draft
from hs.storage.push import push_pruning
from tests.support.rooms import ALICE, BOB, CAROL, World
from tests.support.sql.databases import fresh_sqlite
from tests.support.unread import UnreadScene, open_unread

USERS = (ALICE, BOB, CAROL)
users = st.sampled_from(USERS)
indexes = st.integers(0, 30)
steps = st.one_of(
    st.tuples(st.just("say"), users, st.sampled_from([None, *USERS])),
    st.tuples(st.just("reply"), users, indexes),
    st.tuples(st.just("read"), users, indexes),
    st.tuples(st.just("read_main"), users, indexes),
    st.tuples(st.just("read_thread"), users, indexes),
    st.tuples(st.just("redact"), indexes),
    st.tuples(st.just("request"), users),
    st.tuples(st.just("rejoin"), users),
    st.tuples(st.just("forget")),
    st.tuples(st.just("restart")),
)


@attrs.define
class Sent:
    """A message as the recount sees it."""

    event_id: EventID
    stream_id: int
    sender: UserID
    thread_id: str
    mentions: UserID | None
    members: frozenset[UserID]
    redacted: bool = False


@attrs.define
class Recount:
    """The expected counts, recounted from all messages."""

    sent: list[Sent] = attrs.Factory(list)
    read: dict[tuple[UserID, str], int] = attrs.Factory(dict)

    def note_read(self, user_id: UserID, thread_id: str, stream_id: int) -> None:
        key = (user_id, thread_id)
        self.read[key] = max(self.read.get(key, 0), stream_id)

    def counts(self, user_id: UserID) -> dict[str, tuple[int, int]]:
        counts: dict[str, tuple[int, int]] = {}
        for message in self.sent:
            thread_id = message.thread_id
            read = max(self.read.get((user_id, ""), 0), self.read.get((user_id, thread_id), 0))
            if message.redacted or message.sender == user_id or message.stream_id <= read:
                continue
            if user_id not in message.members:
                continue
            before = counts.get(thread_id, (0, 0))
            counts[thread_id] = (before[0] + 1, before[1] + (message.mentions == user_id))
        return counts


@attrs.define(eq=False)
class Run:
    """The run of one history."""

    unread: UnreadScene
    room_id: RoomID
    expected: Recount

    @property
    def world(self) -> World:
        return self.unread.world

    async def step(self, step: tuple[Any, ...]) -> None:
        kind, *args = step
        await getattr(self, f"_{kind}")(*args)

    async def _say(self, sender: UserID, mentions: UserID | None, root: str = "main") -> None:
        content: dict[str, Any] = {"msgtype": "m.text", "body": "x"}
        if mentions is not None:
            content["m.mentions"] = {"user_ids": [mentions]}
        if root != "main":
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": root}
        draft = Draft(event_types.MESSAGE, sender, content)
        done = (await self.world.append(self.room_id, draft))[0]
        members = frozenset(await self.world.memberships.joined(self.room_id))
        sent = Sent(
            event_id=done.event_id,
            stream_id=done.stream_id,
            sender=sender,
            thread_id=root,
            mentions=mentions,
            members=members,
        )
        self.expected.sent.append(sent)
        self.expected.note_read(sender, root, done.stream_id)

    async def _reply(self, sender: UserID, index: int) -> None:
        roots = [
            message
            for message in self.expected.sent
            if message.thread_id == "main" and not message.redacted
        ]
        if roots:
            await self._say(sender, None, roots[index % len(roots)].event_id)

    async def _read(self, user_id: UserID, index: int, thread_id: str | None = None) -> None:
        messages = [
            message
            for message in self.expected.sent
            if thread_id is None or message.thread_id == thread_id
        ]
        if messages:
            message = messages[index % len(messages)]
            await self.unread.read(user_id, self.room_id, message.event_id, thread_id)
            self.expected.note_read(user_id, thread_id or "", message.stream_id)

    async def _read_main(self, user_id: UserID, index: int) -> None:
        await self._read(user_id, index, "main")

    async def _read_thread(self, user_id: UserID, index: int) -> None:
        # A redacted reply has lost its relation, and so is in no thread.
        replies = [
            message
            for message in self.expected.sent
            if message.thread_id != "main" and not message.redacted
        ]
        if replies:
            reply = replies[index % len(replies)]
            await self.unread.read(user_id, self.room_id, reply.event_id, reply.thread_id)
            self.expected.note_read(user_id, reply.thread_id, reply.stream_id)

    async def _redact(self, index: int) -> None:
        messages = [message for message in self.expected.sent if not message.redacted]
        if messages:
            message = messages[index % len(messages)]
            await self.world.redact(self.room_id, ALICE, message.event_id)
            message.redacted = True

    async def _rejoin(self, user_id: UserID) -> None:
        if user_id == ALICE:
            return
        await self.world.leave(self.room_id, user_id)
        joined = await self.world.join(self.room_id, user_id)
        self.expected.note_read(user_id, "", joined.stream_id)

    async def _forget(self) -> None:
        await self.unread.settle()
        await self.world.database.write(push_pruning.delete_read, self.room_id, 2**62)

    async def _request(self, user_id: UserID) -> None:
        for counting in (self.unread.counting, counts_without_memory(self.unread)):
            counts = await counting.counts(user_id, [self.room_id])
            assert shown(counts.get(self.room_id)) == self.expected.counts(user_id)


def counts_without_memory(unread: UnreadScene) -> UnreadCounts:
    """Return the counts as of a process that starts now, which takes too long for each step."""
    base, receipts = unread.world.process.base, unread.services.ephemeral.receipts
    return UnreadCounts(base.database, base.feed, receipts, unread.duty)


def shown(counts: RoomCounts | None) -> dict[str, Count]:
    """Return the counts that are not zero, by thread."""
    if counts is None:
        return {}
    threads = {str(root): count for root, count in counts.threads.items()}
    return {**threads, **({"main": counts.main} if any(counts.main) else {})}


async def play(folder: Path, template: Path, history: list[tuple[Any, ...]]) -> None:
    """Run a history; each restart is a new world on the same database."""
    lives: list[list[tuple[Any, ...]]] = [[]]
    for step in history:
        if step[0] == "restart":
            lives.append([])
        else:
            lives[-1].append(step)
    expected, room_id = Recount(), None
    async with fresh_sqlite(template, folder / "test.db") as database:
        for steps_of_life in lives:
            async with open_unread(database) as unread:
                if room_id is None:
                    room_id = await unread.world.create_room(ALICE)
                    for user_id in (BOB, CAROL):
                        done = await unread.world.join(room_id, user_id)
                        expected.note_read(user_id, "", done.stream_id)
                run = Run(unread, room_id, expected)
                for step in steps_of_life:
                    await run.step(step)
                for user_id in USERS:
                    await run.step(("request", user_id))


@pytest.mark.parametrize("tail_rows", [4, 400])
def test_counts_equal_a_recount_from_the_events(
    sqlite_template: Path, monkeypatch: pytest.MonkeyPatch, tail_rows: int
) -> None:
    monkeypatch.setattr("hs.services.push.unread.recent_notifications.MAX_ROWS", tail_rows)

    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
    @given(st.lists(steps, max_size=40))
    def holds(history: list[tuple[Any, ...]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trio.run(play, Path(folder), sqlite_template, history)

    holds()
