"""The stored progress: asked of the evaluating process, guessed while that cannot be reached."""

from typing import Any

import attrs
import pytest
import trio.testing

from hs.core.errors import ProcessUnavailable
from hs.core.ids import RoomID, UserID
from hs.core.streams import Unread, UnreadRow
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.services.push.evaluation.result_store import Progress
from hs.services.push.unread.stored_progress import GUESS_S, StoredProgress
from hs.storage.database import CommitUnknown

BOB = UserID("@bob:test")
ROOM, OTHER_ROOM = RoomID("!room"), RoomID("!other")


@attrs.define
class Evaluation:
    """An evaluating process that is away at times, and the position in the database."""

    progress: Progress
    stored: str | None = None
    is_away: bool = False
    failure: Exception = attrs.Factory(lambda: RpcUnavailable("main", "it does not run"))
    asked: int = 0

    async def flush(self) -> Progress:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.is_away:
            raise self.failure
        return self.progress

    async def read(self, unit: Any) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.stored


def make_progress(evaluation: Evaluation) -> StoredProgress:
    return StoredProgress(evaluation, evaluation)  # type: ignore[arg-type]  # it only reads


def announced(stream_id: int, room_id: RoomID = ROOM, stored: int = 0) -> UnreadRow:
    """Return the row of a message that was sent, which also is an implicit read."""
    unread = Unread(
        stream_id=stream_id,
        room_id=room_id,
        event_id=f"${stream_id}",
        thread_id="main",
        sender=BOB,
        notify=True,
        highlight=False,
    )
    mark = (BOB, room_id, "main", stream_id)
    return UnreadRow("w", stream_id, unread=(unread,), marks=(mark,), stored=stored)


def unstored(progress: StoredProgress) -> list[int]:
    return [unread.stream_id for unread in progress.unstored_notifications(ROOM)]


async def test_the_evaluating_process_tells_its_progress() -> None:
    progress = make_progress(Evaluation(Progress(1000, "5~w.7")))
    known_before = progress.is_known

    must_forget = await progress.learn()

    assert (known_before, progress.is_known, must_forget) == (False, True, False)
    assert (progress.position.get("w"), progress.position.get("other")) == (7, 5)


async def test_rows_are_held_until_they_are_stored() -> None:
    progress = make_progress(Evaluation(Progress(1002, "0~w.6")))
    for position, row in [(1001, announced(5)), (1002, announced(6)), (1003, announced(7))]:
        progress.add(position, row)
    progress.add(1004, announced(8, OTHER_ROOM))
    progress.add(1005, UnreadRow("w", 9, removed=((ROOM, 5),)))
    before, marks = unstored(progress), progress.unstored_marks(BOB)

    await progress.learn()
    after_flush = unstored(progress)
    progress.add(1006, announced(10, stored=1004))

    assert before == [5, 6, 7]
    assert [mark[3] for mark in marks] == [5, 6, 7, 8]
    assert after_flush == [7]
    assert unstored(progress) == [10]
    assert progress.position.get("w") == 8
    assert progress.has_unstored_removal([ROOM])
    assert not progress.has_unstored_removal([OTHER_ROOM])


@pytest.mark.parametrize(
    "failure",
    [
        RpcUnavailable("main", "it does not run"),
        RpcFailed("EvaluationStore.flush at main: KeyError"),
        # Results cannot be stored: in this process, and in another one, whose reply says so.
        CommitUnknown("the connection broke"),
        ProcessUnavailable(CommitUnknown.ANSWER),
    ],
)
async def test_a_guess_is_used_for_some_time_and_forgotten_after_it(
    autojump_clock: trio.testing.MockClock, failure: Exception
) -> None:
    evaluation = Evaluation(Progress(1000, "0~w.9"), "0~w.4", is_away=True, failure=failure)
    progress = make_progress(evaluation)

    forgets = [await progress.learn(), await progress.learn()]
    guess = (progress.is_known, progress.position.get("w"), evaluation.asked)
    await trio.sleep(GUESS_S)
    forgets.append(await progress.learn())
    evaluation.is_away = False
    forgets.append(await progress.learn())
    asked_early = evaluation.asked
    await trio.sleep(GUESS_S)
    forgets.append(await progress.learn())

    assert guess == (False, 4, 1)
    assert asked_early == 2
    assert forgets == [False, False, False, False, True]
    assert (progress.is_known, progress.position.get("w")) == (True, 9)


async def test_a_guess_is_forgotten_when_later_results_are_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Neither rows nor replies of the evaluating process arrive, but it goes on."""
    evaluation = Evaluation(Progress(1000, "0~w.9"), "0~w.4", is_away=True)
    progress = make_progress(evaluation)

    forgets = [await progress.learn()]
    for stored in ("0~w.4", "0~w.6"):
        evaluation.stored = stored
        await trio.sleep(GUESS_S)
        forgets.append(await progress.learn())

    assert forgets == [False, False, True]
    assert progress.position.get("w") == 6


async def test_after_a_reset_the_evaluating_process_is_asked_at_once() -> None:
    evaluation = Evaluation(Progress(2000, "0~w.9"), is_away=True)
    progress = make_progress(evaluation)
    await progress.learn()
    progress.add(1001, announced(5))

    progress.reset()
    evaluation.is_away = False
    left = unstored(progress)
    must_forget = await progress.learn()

    assert left == []
    assert (progress.is_known, must_forget, evaluation.asked) == (True, False, 2)


@pytest.mark.parametrize("is_reset", [False, True])
async def test_progress_that_was_known_is_asked_again_only_after_a_reset(is_reset: bool) -> None:
    progress = make_progress(Evaluation(Progress(1000, "0~w.9")))
    await progress.learn()

    if is_reset:
        progress.reset()

    assert progress.is_known is not is_reset
    assert progress.position.get("w") == (0 if is_reset else 9)
