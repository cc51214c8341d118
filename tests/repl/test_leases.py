"""Leases: one holder at a time, which stops if it cannot renew."""

import os
import subprocess
import sys
from typing import Any

import attrs
import pytest
import trio

from hs.repl.leases import (
    RENEW_S,
    TTL_MS,
    VALID_S,
    Lease,
    LeaseLost,
    Leases,
    LeaseTaken,
    holder_name,
    instance_lease,
    is_alive,
)
from hs.storage import leases
from hs.storage.database import Database, DatabaseUnavailable


class VirtualTime:
    """The virtual clock of the test, in milliseconds."""

    def now_ms(self) -> int:
        return 1_000_000 + int(trio.current_time() * 1000)


def process(database: Database, name: str) -> Leases:
    return Leases(database, name, VirtualTime().now_ms)


async def test_second_process_with_the_name_of_a_running_one_is_refused(database: Database) -> None:
    first, second = (process(database, holder_name("w1")) for _ in range(2))
    name = instance_lease("w1")

    async with first.hold(name):
        with pytest.raises(LeaseTaken):
            async with second.hold(name):
                pass


async def test_lease_of_a_process_killed_on_this_host_is_free_at_once(
    database: Database,
) -> None:
    print_holder_name = "from hs.repl.leases import holder_name; print(holder_name('w1'))"
    ended = await trio.run_process([sys.executable, "-c", print_holder_name], capture_stdout=True)
    killed = ended.stdout.decode().strip()
    await process(database, killed).try_take("duty")

    async with process(database, holder_name("w1")).hold("duty") as lease:
        assert lease.fence == 2


def test_processes_on_other_hosts_and_in_other_containers_are_never_taken_for_dead() -> None:
    here = holder_name("w1")
    host, namespace, _, started = here.partition("@")[2].partition("/")[0].split(":")

    assert is_alive(here)
    assert is_alive(f"w1@{host}:{namespace}:{2**22}:{started}/abcdef") is False
    assert is_alive(f"w1@another-host:{namespace}:{2**22}:{started}/abcdef") is None
    # In another container of this host a process ID is that of another process.
    assert is_alive(f"w1@{host}:{namespace}0:{2**22}:{started}/abcdef") is None


def test_zombie_process_is_dead() -> None:
    print_holder_name = "from hs.repl.leases import holder_name; print(holder_name('w1'))"
    command = [sys.executable, "-c", print_holder_name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ended:
        assert ended.stdout is not None
        holder = ended.stdout.read().strip()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)

        assert is_alive(holder) is False


async def test_wait_for_a_holder_that_is_seen_to_run_has_its_own_limit(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    living = process(db, holder_name("w1"))
    began = trio.current_time()
    async with living.hold("instance"):
        with pytest.raises(LeaseTaken):
            async with process(db, holder_name("w1")).hold_fenced("instance", 60, 0):
                pass
    assert trio.current_time() == began
    await process(db, "lost with its host").try_take("instance")

    async with process(db, holder_name("w1")).hold_fenced("instance", 60, 0) as lease:
        assert lease.fence == 3


@pytest.mark.parametrize(("is_answering", "waited_s"), [(True, 4), (False, TTL_MS / 1000)])
async def test_holder_on_another_host_runs_if_it_answers(
    db: Database, autojump_clock: trio.testing.MockClock, is_answering: bool, waited_s: float
) -> None:
    async def answers() -> bool:
        await trio.lowlevel.checkpoint()
        return is_answering

    await process(db, "w1@elsewhere:1:2:3/a").try_take("instance")
    began, refused = trio.current_time(), False
    try:
        async with process(db, holder_name("w1")).hold_fenced("instance", 60, 4, answers):
            pass
    except LeaseTaken:
        refused = True

    assert refused is is_answering
    assert trio.current_time() - began == pytest.approx(waited_s, abs=2)


async def test_running_holder_that_announces_its_end_is_waited_for(
    db: Database, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ending, next_life = (process(db, holder_name("w1")) for _ in range(2))
    has_lease = trio.Event()

    async def run_first() -> None:
        async with ending.hold("instance"):
            has_lease.set()
            await trio.sleep(3)
            await ending.announce_end("instance")
            await trio.sleep(15)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_first)
        await has_lease.wait()
        async with next_life.hold_fenced("instance", 60, 4):
            assert 17 < trio.current_time() < 21

    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("has instance, waiting up to 4 s for its end")


async def test_returned_lease_is_free_at_once_and_its_fence_grows(database: Database) -> None:
    fences: list[int] = []
    for holder in ("a", "b", "a"):
        async with process(database, holder).hold("duty") as lease:
            fences.append(lease.fence)

    assert fences == sorted(set(fences))


async def test_taking_a_lease_twice_in_one_life_keeps_its_fence(database: Database) -> None:
    holder = process(database, "a")

    assert await holder.try_take("duty") == await holder.try_take("duty")


async def test_lease_of_a_dead_process_is_free_after_its_expiry(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    await process(db, "dead").try_take("duty")
    started = trio.current_time()

    async with process(db, "alive").hold("duty", wait_s=60) as lease:
        waited_ms = (trio.current_time() - started) * 1000

    assert lease.fence == 2
    assert TTL_MS <= waited_ms <= TTL_MS + 2000


async def test_lease_taken_before_the_clock_was_set_back_is_free(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    an_hour_ahead = Leases(db, "dead", lambda: VirtualTime().now_ms() + 3_600_000)
    await an_hour_ahead.try_take("duty")

    lease = await process(db, "alive").try_take("duty")

    assert lease is not None
    assert lease.fence == 2


async def test_holder_renews_as_long_as_it_holds(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    async with process(db, "a").hold("duty"):
        await trio.sleep(10 * TTL_MS / 1000)

        assert await process(db, "b").try_take("duty") is None


async def test_leases_of_a_process_are_renewed_together(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    counted = Counted(db)
    database: Any = counted
    holder = process(database, "a")
    async with holder.hold("first"):
        await trio.sleep(RENEW_S / 2)
        async with holder.hold("second"):
            await trio.sleep(10 * TTL_MS / 1000)

            for name in ("first", "second"):
                assert await process(db, "b").try_take(name) is None

    assert counted.renewals <= 10 * TTL_MS / 1000 / RENEW_S + 1


async def test_leases_are_renewed_along_with_other_units(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    counted = Counted(db)
    database: Any = counted
    holder = process(database, "a")
    async with holder.hold("first"), holder.hold("second"):
        for _ in range(10):
            assert await holder.renew_after(leases.read, "first") is not None
            await trio.sleep(RENEW_S)

        for name in ("first", "second"):
            assert await process(db, "b").try_take(name) is None
    assert counted.renewals == 0


async def test_holder_is_stopped_by_a_unit_that_finds_its_lease_lost(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    holder = process(db, "a")
    began = trio.current_time()
    with pytest.RaisesGroup(LeaseLost):
        async with holder.hold("lost"):
            await db.write(leases.release, "lost", "a")
            await holder.renew_after(leases.read, "lost")
            await trio.sleep_forever()

    assert trio.current_time() == began


async def test_renewal_of_a_lease_of_another_process_stops_only_its_holder(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    holder = process(db, "a")
    async with holder.hold("kept"):
        with pytest.RaisesGroup(LeaseLost):
            async with holder.hold("lost"):
                await db.write(leases.release, "lost", "a")
                assert await process(db, "b").try_take("lost") is not None
                await trio.sleep_forever()
        await trio.sleep(2 * TTL_MS / 1000)

        assert holder.held == {"kept"}
        assert await process(db, "b").try_take("kept") is None


async def test_renewal_that_the_database_carries_out_late_shortens_no_lease(
    database: Database,
) -> None:
    await database.write(leases.take, "duty", "a", 20_000, 10_000)

    for expires_ms in (40_000, 30_000):
        assert await database.write_idempotent(leases.renew, "a", ["duty"], expires_ms)

    row = await database.read(leases.read, "duty")
    assert row is not None
    assert row.expires_ms == 40_000


async def test_renewal_after_the_clock_was_set_back_shortens_a_lease(database: Database) -> None:
    await database.write(leases.take, "duty", "a", 7_200_000, 7_190_000)

    await database.write_idempotent(leases.renew, "a", ["duty"], 3_600_000)

    row = await database.read(leases.read, "duty")
    assert row is not None
    assert row.expires_ms == 3_600_000


async def test_holder_goes_on_though_an_earlier_renewal_ends_after_later_ones(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    delayed: Any = Delayed(db, 1.2 * TTL_MS / 1000)
    holder = process(delayed, "a")
    async with trio.open_nursery() as nursery, holder.hold("duty"):
        nursery.start_soon(holder.renew_after, leases.read, "duty")
        await trio.sleep(delayed.delay_s + RENEW_S / 10)

        assert await process(db, "b").try_take("duty") is None
        await trio.sleep(TTL_MS / 1000)
        assert holder.held == {"duty"}


async def test_replaced_holder_is_stopped(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.RaisesGroup(LeaseLost):
        async with process(db, "a").hold("duty"):
            await db.write(leases.release, "duty", "a")
            taken = await process(db, "b").try_take("duty")
            await trio.sleep_forever()

    row = await db.read(leases.read, "duty")
    assert row is not None
    assert taken == Lease("duty", row.holder, row.fence)


@attrs.define
class Wrapped:
    """A database that passes units on to another one."""

    database: Database

    async def write(self, unit: Any, *args: Any) -> Any:
        return await self.database.write(unit, *args)

    async def write_idempotent(self, unit: Any, *args: Any) -> Any:
        return await self.database.write_idempotent(unit, *args)

    async def read(self, unit: Any, *args: Any) -> Any:
        return await self.database.read(unit, *args)


@attrs.define
class Counted(Wrapped):
    """A database that counts the statements that renew leases."""

    renewals: int = 0

    async def write_idempotent(self, unit: Any, *args: Any) -> Any:
        self.renewals += unit is leases.renew
        return await super().write_idempotent(unit, *args)


@attrs.define
class Outage(Wrapped):
    """A database in which no lease can be renewed until a time."""

    until: float

    async def write_idempotent(self, unit: Any, *args: Any) -> Any:
        if trio.current_time() < self.until:
            raise DatabaseUnavailable("away")
        return await super().write_idempotent(unit, *args)


async def test_without_the_database_a_holder_stops_before_another_may_start(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    away: Any = Outage(db, trio.current_time() + 10 * TTL_MS / 1000)
    began = trio.current_time()

    with pytest.RaisesGroup(LeaseLost):
        async with process(away, "a").hold("duty"):
            await trio.sleep_forever()

    assert trio.current_time() - began < TTL_MS / 1000


@attrs.define
class Delayed(Wrapped):
    """A database that takes long for units with which leases are renewed."""

    delay_s: float

    async def write_idempotent(self, unit: Any, *args: Any) -> Any:
        if unit is leases.renew_after:
            await trio.sleep(self.delay_s)
        return await super().write_idempotent(unit, *args)


@attrs.define
class HungDatabase(Wrapped):
    """A database that takes leases slowly, and does not answer when they are to be renewed."""

    async def write(self, unit: Any, *args: Any) -> Any:
        result = await super().write(unit, *args)
        await trio.sleep(1 if unit is leases.take else 0)
        return result

    async def write_idempotent(self, unit: Any, *args: Any) -> Any:
        await trio.sleep_forever()


async def test_lease_ends_in_time_though_the_database_hangs(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    hung: Any = HungDatabase(db)
    began = trio.current_time()

    with pytest.RaisesGroup(LeaseLost):
        async with process(hung, "a").hold("duty"):
            await trio.sleep_forever()

    assert trio.current_time() - began <= VALID_S


async def test_holder_of_a_fenced_lease_continues_without_the_database(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    away: Any = Outage(db, trio.current_time() + 10 * TTL_MS / 1000)

    async with process(away, "a").hold_fenced("instance", 0, 0):
        await trio.sleep(11 * TTL_MS / 1000)

        assert await process(db, "b").try_take("instance") is None


async def test_fenced_lease_expires_without_the_database_and_is_valid_again_with_it(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    away: Any = Outage(db, trio.current_time() + 10 * TTL_MS / 1000)
    leases = process(away, "a")

    async with leases.hold_fenced("instance", 0, 0):
        expired = [leases.has_expired("instance")]
        for _ in range(2):
            await trio.sleep(6 * TTL_MS / 1000)
            expired.append(leases.has_expired("instance"))

    assert expired == [False, True, False]


async def test_holder_of_a_fenced_lease_stops_when_another_takes_it(
    db: Database, autojump_clock: trio.testing.MockClock
) -> None:
    away: Any = Outage(db, trio.current_time() + 10 * TTL_MS / 1000)

    with pytest.RaisesGroup(LeaseLost):
        async with process(away, "a").hold_fenced("instance", 0, 0):
            async with process(db, "b").hold("instance", wait_s=60):
                await trio.sleep_forever()
