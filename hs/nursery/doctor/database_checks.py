"""Checks of the database: what a process asks of it, and invariants of its content."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.lib.clock import SystemClock
from hs.nursery.health.database_probe import DatabaseProbe
from hs.nursery.process_base import slot_writers, topology_of
from hs.repl.leases import instance_lease, is_alive
from hs.services.federation_client.peer_check import CheckStep
from hs.settings.settings import Settings
from hs.storage import stream_slots
from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.invariants import (
    HeldLease,
    held_leases,
    ids_behind_positions,
    rooms_without_creation,
    rows_beyond_positions,
)
from hs.storage.migrate import bundled_migrations
from hs.storage.stream_slots import SlotRecord

QUERY_S: Final = 5.0
LATE_MS: Final = 10_000
_DUTY: Final = "duty:"
_MAX_NAMED: Final = 5

T = TypeVar("T")
Report = Callable[[CheckStep], None]


async def check_database_content(settings: Settings, database: Database, report: Report) -> None:
    """Report what is right and wrong with the database."""
    clock = SystemClock()
    began = trio.current_time()
    causes = await DatabaseProbe(database, bundled_migrations(), clock.now_ms).look()
    milliseconds = (trio.current_time() - began) * 1000
    for cause in causes:
        report(CheckStep(cause.check, cause.message, False))
    if not causes:
        text = f"answers in {milliseconds:.0f} ms, its schema and clock fit"
        report(CheckStep("database", f"{settings.database.description} {text}"))

    async for step in invariant_steps(database):
        report(step)
    leases = await _ask(database, held_leases)
    for step in [leases] if isinstance(leases, CheckStep) else lease_steps(leases, clock.now_ms()):
        report(step)
    slots = await _ask(database, stream_slots.list_slots)
    if isinstance(slots, CheckStep):
        report(slots)
    elif not isinstance(leases, CheckStep):
        configured = slot_writers(topology_of(settings.workers))
        for step in slot_steps(slots, running_by_leases(leases, clock.now_ms()), configured):
            report(step)


async def invariant_steps(database: Database) -> AsyncIterator[CheckStep]:
    """Yield whether each invariant holds."""
    behind = await _ask(database, rows_beyond_positions)
    text = "stream positions are behind rows, which clients would miss"
    yield _step_of("positions", behind, text, "no row is beyond its stream")
    reused = await _ask(database, ids_behind_positions)
    text = "numbers of stored rows would be given again, restore a whole backup"
    yield _step_of("stream IDs", reused, text, "no stored row has a number yet to be given")
    rooms = await _ask(database, rooms_without_creation)
    count, lacking = (0, rooms) if isinstance(rooms, CheckStep) else rooms
    yield _step_of("rooms", lacking, "no create event", f"each of {count} has a create event")


def _step_of(subject: str, found: list[str] | CheckStep, bad: str, good: str) -> CheckStep:
    if isinstance(found, CheckStep):
        return attrs.evolve(found, subject=subject)
    if not found:
        return CheckStep(subject, good)
    return CheckStep(subject, f"{bad}: {', '.join(found[:_MAX_NAMED])}", False)


def lease_steps(leases: list[HeldLease], now_ms: int) -> list[CheckStep]:
    """Return what is wrong with the leases, or that nothing is."""
    steps = []
    for lease in leases:
        late_ms = now_ms - lease.expires_ms
        if lease.name.startswith(_DUTY) and late_ms > LATE_MS:
            text = (
                f"nobody does {lease.name.removeprefix(_DUTY)!r} since {lease.holder} ceased to, "
                f"{late_ms / 1000:.0f} s ago: start a process with this task"
            )
            steps.append(CheckStep("leases", text, False))
        elif late_ms < 0 and is_alive(lease.holder) is False:
            left_s = -late_ms / 1000
            text = f"{lease.name} is held for {left_s:.0f} s by {lease.holder}, which is gone"
            steps.append(CheckStep("leases", text, False))
        elif lease.name.startswith(instance_lease("")) and late_ms > LATE_MS:
            name = lease.name.removeprefix(instance_lease(""))
            text = f"process {name} was killed and not started again"
            steps.append(CheckStep("leases", text, None))
    if all(step.is_good is not False for step in steps):
        steps.append(CheckStep("leases", f"{len(leases)} held, none by a process that is gone"))
    return steps


def running_by_leases(leases: list[HeldLease], now_ms: int) -> set[str]:
    """Return the names of the processes that run, as far as their leases say."""
    prefix = instance_lease("")
    return {
        lease.name.removeprefix(prefix)
        for lease in leases
        if lease.name.startswith(prefix)
        and lease.expires_ms > now_ms
        and is_alive(lease.holder) is not False
    }


def slot_steps(
    slots: Sequence[SlotRecord],
    running: Collection[str],
    configured: Mapping[str, Sequence[str]],
) -> list[CheckStep]:
    """Return who holds the slots, and what is wrong with that; nothing if there are no slots."""
    steps = []
    # Those of other streams are from a time when several processes wrote them.
    counts = Counter(
        (record.stream, record.holder) for record in slots if record.stream in configured
    )
    for (stream, holder), count in sorted(counts.items()):
        text, is_good = f"{holder} holds {count} slots of {stream}", True
        if holder not in configured[stream]:
            text += f", but is not configured to write them: start a writer of {stream}"
            is_good = False
        elif holder not in running:
            text += ", but does not run: it, or another writer, has to be started"
            is_good = False
        steps.append(CheckStep("slots", text, is_good))
    return steps


async def _ask(database: Database, unit: Callable[[Tx], Coroutine[Any, Any, T]]) -> T | CheckStep:
    """Run a unit within QUERY_S; return its result, or the step that says why there is none."""
    try:
        with trio.fail_after(QUERY_S):
            return await database.read_long(unit)
    except DatabaseError as error:
        return CheckStep("database", f"not checked: {error}", False)
    except trio.TooSlowError:
        return CheckStep("database", f"not checked within {QUERY_S:.0f} s", None)
