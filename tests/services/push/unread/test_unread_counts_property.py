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
from hs.services.rooms.append.drafts import Draft
from hs.storage.push import push_pruning
from tests.support.databases import fresh_sqlite
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world
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
    st.tuples(st.just("ask"), users),
    st.tuples(st.just("rejoin"), users),
    st.tuples(st.just("forget")),
    st.tuples(st.just("restart")),
)


@attrs.define
class Sent:
    """One message as the recount sees it."""

    event_id: EventID
    stream_id: int
    sender: UserID
    thread_id: str
    mentions: UserID | None
    members: frozenset[UserID]
    redacted: bool = False


@attrs.define
class Truth:
    """What everybody should be told, worked out the slow way."""

    sent: list[Sent] = attrs.Factory(list)
    read: dict[tuple[UserID, str], int] = attrs.Factory(dict)

    def note_read(self, user_id: UserID, thread_id: str, stream_id: int) -> None:
        key = (user_id, thread_id)
        self.read[key] = max(self.read.get(key, 0), stream_id)

    def counts(self, user_id: UserID) -> dict[str, tuple[int, int]]:
        counts: dict[str, tuple[int, int]] = {}
        for one in self.sent:
            seen = max(self.read.get((user_id, ""), 0), self.read.get((user_id, one.thread_id), 0))
            if one.redacted or one.sender == user_id or one.stream_id <= seen:
                continue
            if user_id not in one.members:
                continue
            before = counts.get(one.thread_id, (0, 0))
            counts[one.thread_id] = (before[0] + 1, before[1] + (one.mentions == user_id))
        return counts


@attrs.define(eq=False)
class Run:
    """One history being played."""

    world: World
    unread: UnreadScene
    room_id: RoomID
    truth: Truth

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
        members = frozenset(await self.unread.members.joined(self.room_id))
        self.truth.sent.append(Sent(done.event_id, done.stream_id, sender, root, mentions, members))
        self.truth.note_read(sender, root, done.stream_id)

    async def _reply(self, sender: UserID, index: int) -> None:
        roots = [one for one in self.truth.sent if one.thread_id == "main" and not one.redacted]
        if roots:
            await self._say(sender, None, roots[index % len(roots)].event_id)

    async def _read(self, user_id: UserID, index: int, thread_id: str | None = None) -> None:
        fitting = [
            one for one in self.truth.sent if thread_id is None or one.thread_id == thread_id
        ]
        if fitting:
            one = fitting[index % len(fitting)]
            await self.unread.read(user_id, self.room_id, one.event_id, thread_id)
            self.truth.note_read(user_id, thread_id or "", one.stream_id)

    async def _read_main(self, user_id: UserID, index: int) -> None:
        await self._read(user_id, index, "main")

    async def _read_thread(self, user_id: UserID, index: int) -> None:
        # The relations of what was redacted are gone, so that it is in no thread any more.
        replies = [one for one in self.truth.sent if one.thread_id != "main" and not one.redacted]
        if replies:
            one = replies[index % len(replies)]
            await self.unread.read(user_id, self.room_id, one.event_id, one.thread_id)
            self.truth.note_read(user_id, one.thread_id, one.stream_id)

    async def _redact(self, index: int) -> None:
        left = [one for one in self.truth.sent if not one.redacted]
        if left:
            one = left[index % len(left)]
            await self.world.redact(self.room_id, ALICE, one.event_id)
            one.redacted = True

    async def _rejoin(self, user_id: UserID) -> None:
        if user_id == ALICE:
            return
        await self.world.leave(self.room_id, user_id)
        joined = await self.world.join(self.room_id, user_id)
        self.truth.note_read(user_id, "", joined.stream_id)

    async def _forget(self) -> None:
        await self.unread.settle()
        await self.world.database.write(push_pruning.forget_read, self.room_id, 2**62)

    async def _ask(self, user_id: UserID) -> None:
        for counting in (self.unread.counting, self.unread.another_counter()):
            found = (await counting.counts(user_id, [self.room_id])).get(self.room_id)
            shown: dict[str, tuple[int, int]] = {}
            if found is not None:
                shown = {root: tuple(one) for root, one in found.threads.items()}  # type: ignore[misc]  # a Count is a pair
                if any(found.main):
                    shown["main"] = (found.main.notifications, found.main.highlights)
            assert shown == self.truth.counts(user_id)


async def play(folder: Path, template: Path, history: list[tuple[Any, ...]]) -> None:
    """Play a history; each restart is a new world on the same database."""
    lives: list[list[tuple[Any, ...]]] = [[]]
    for step in history:
        if step[0] == "restart":
            lives.append([])
        else:
            lives[-1].append(step)
    truth, room_id = Truth(), None
    async with fresh_sqlite(template, folder / "test.db") as database:
        for steps_of_life in lives:
            async with open_world(database) as world, open_unread(world) as unread:
                if room_id is None:
                    room_id = await world.create_room(ALICE)
                    for user_id in (BOB, CAROL):
                        done = await world.join(room_id, user_id)
                        truth.note_read(user_id, "", done.stream_id)
                run = Run(world, unread, room_id, truth)
                for step in steps_of_life:
                    await run.step(step)
                for user_id in USERS:
                    await run.step(("ask", user_id))


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
