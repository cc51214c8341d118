"""Bugs that can be planted into the processes of a simulation, which must find each of them.

Each one removes a rule of hs.repl, or all rules that cover each other. It is found by a script made
for it (scripts.py), whatever the order of everything else.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from typing import Any, Final
from unittest import mock

import outcome
import trio

from hs.repl.calls import sender
from hs.repl.calls.client import RpcClients
from hs.repl.calls.sender import LinkSender
from hs.repl.calls.server import RpcServer
from hs.repl.envelope import Envelopes
from hs.repl.freshness import Freshness
from hs.repl.intake import Intake
from hs.repl.leases import Leases, _Renewal
from hs.repl.slots.keeper import SlotKeeper
from hs.repl.writers import TableWriter, _Attempt, _fail, _Job
from hs.services.rooms.append.pending_events import EventBatch
from hs.storage import stream_log
from hs.storage.database import CommitUnknown, Tx

Plant = Callable[[], AbstractContextManager[object]]


def _replaced(owner: Any, name: str, replacement: object) -> Plant:
    return lambda: mock.patch.object(owner, name, replacement)


def _wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Plant:
    return lambda: mock.patch.object(owner, name, wrap(getattr(owner, name)))


def _all_of(*plants: Plant) -> Plant:
    @contextmanager
    def plant_all() -> Iterator[None]:
        with ExitStack() as stack:
            for plant in plants:
                stack.enter_context(plant())
            yield

    return plant_all


async def _true_at_once(*_: object) -> bool:
    await trio.lowlevel.checkpoint()
    return True


def _constant(value: object) -> property:
    return property(lambda _: value, lambda _, __: None)


class _EqualToAll:
    def __ne__(self, _: object) -> bool:
        return False


# Readers


async def _skip_gap(self: Intake, lane: Any) -> bool:
    newest = await self._database.read(stream_log.stream_positions, lane.stream.name)
    self._feed.start_at(lane.stream, lane.writer, newest.get(lane.writer, 0))
    return True


# Writers


async def _fail_unknown(_: object, attempt: _Attempt[Any], error: CommitUnknown) -> None:
    await trio.lowlevel.checkpoint()
    _fail(attempt.jobs, error)


async def _repeat_unknown(self: TableWriter[Any], attempt: _Attempt[Any], _: CommitUnknown) -> None:
    await self._write_batch(attempt.jobs, attempt.number + 1)


def _publishing(transaction: Any) -> Any:
    async def run_and_publish(self: TableWriter[Any], tx: Tx, attempt: _Attempt[Any]) -> None:
        await transaction(self, tx, attempt)
        if attempt.rows:
            self._publish(attempt.rows)

    return run_and_publish


def _finish_only(_: object, attempt: _Attempt[Any]) -> None:
    for job, result in zip(attempt.jobs, attempt.results, strict=True):
        job.finish(outcome.Value(result))


async def _position(tx: Tx, stream: str, writer: str) -> int:
    return (await stream_log.stream_positions(tx, stream)).get(writer, 0)


async def _set_any_position(tx: Tx, stream: str, writer: str, _: str, position: int) -> None:
    found = await stream_log.position_and_life(tx, stream, writer)
    assert found is not None
    await tx.update_row(stream_log.SET_POSITION, (stream, writer, found[1], position))


# Leases, messages and calls


def _counting_from_the_reply(note: Any) -> Any:
    return lambda self, _, fence: note(self, trio.current_time(), fence)


def _opening_all(open_envelope: Any) -> Any:
    def open_any(self: Envelopes, envelope: bytes) -> Any:
        self._newest.clear()
        return open_envelope(self, envelope)

    return open_any


def _without_deadline(call: Any) -> Any:
    return lambda self, instance, request, _, **kind: call(
        self, instance, request, math.inf, **kind
    )


def _executing_all(begin: Any) -> Any:
    numbers = count(1)
    return lambda self, key, *call: begin(self, (key[0], -next(numbers)), *call)


_NO_DEADLINE: Final = _wrapped(LinkSender, "call", _without_deadline)
_NEVER_HUNG: Final = _replaced(sender, "HUNG_AFTER_S", math.inf)
_VOID_JOBS: Final = _replaced(_Job, "fences", _constant(_EqualToAll()))
_VOID_BATCHES: Final = _replaced(EventBatch, "fences", _constant(_EqualToAll()))

PLANTED: Final[dict[str, Plant]] = {
    # Rows of the new owner of a room are delivered before those of the one before.
    "no-barrier": _replaced(Intake, "_may_follow", lambda *_: True),
    "skipped-gap": _replaced(Intake, "_repair_from_tables", _skip_gap),
    "stale-reads": _replaced(Freshness, "catch_up", _true_at_once),
    "reply-before-rows": _replaced(RpcClients, "_catch_up", _true_at_once),
    "early-publication": _all_of(
        _wrapped(TableWriter, "_transaction", _publishing),
        _replaced(TableWriter, "_finish", _finish_only),
    ),
    "unknown-is-failed": _replaced(TableWriter, "_settle", _fail_unknown),
    "unknown-is-repeated": _replaced(TableWriter, "_settle", _repeat_unknown),
    "void-jobs": _VOID_JOBS,
    "void-batches": _VOID_BATCHES,
    "void-work": _all_of(_VOID_JOBS, _VOID_BATCHES),
    # A writer that was taken for dead may commit.
    "no-fence": _replaced(stream_log, "fence", _position),
    # Of two processes with one name, the first may commit.
    "no-generation": _replaced(stream_log, "set_position", _set_any_position),
    "early-slots": _replaced(SlotKeeper, "_catch_up", _true_at_once),
    "busy-slots": _replaced(SlotKeeper, "_wait_idle", _true_at_once),
    "endless-lease": _replaced(Leases, "_keep", Leases._keep_fenced),
    "long-lease": _wrapped(_Renewal, "note", _counting_from_the_reply),
    "replayed-messages": _wrapped(Envelopes, "open", _opening_all),
    "calls-without-deadline": _NO_DEADLINE,
    "hung-owner": _NEVER_HUNG,
    "endless-calls": _all_of(_NO_DEADLINE, _NEVER_HUNG),
    "repeated-calls": _wrapped(RpcServer, "begin", _executing_all),
}
