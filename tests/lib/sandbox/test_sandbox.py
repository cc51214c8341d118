"""The sandbox survives whatever its functions do, and so does whoever asked."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from hs.lib.sandbox import pool as sandbox_module
from hs.lib.sandbox.pool import FaultKind, Sandbox, SandboxFault

FUNCTIONS = "tests.support.sandboxed"
# Far above what anything here takes; only reached when something is wrong.
PATIENCE_S = 60.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    pool = Sandbox(children=2, memory_bytes=256 << 20)
    yield pool
    await pool.aclose()


async def run(
    sandbox: Sandbox,
    name: str,
    payload: bytes = b"",
    timeout_s: float = PATIENCE_S,
    max_bytes: int = 1 << 20,
) -> bytes:
    return await sandbox.run(
        f"{FUNCTIONS}:{name}", payload, timeout_s=timeout_s, max_bytes=max_bytes
    )


async def fault_of(sandbox: Sandbox, name: str, payload: bytes = b"", **bounds: float) -> FaultKind:
    with pytest.raises(SandboxFault) as caught:
        await run(sandbox, name, payload, **bounds)  # type: ignore[arg-type]  # bounds by name
    return caught.value.kind


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_function_answers_from_another_process(sandbox: Sandbox) -> None:
    assert await run(sandbox, "shout", b"quiet") == b"QUIET"


async def test_a_large_payload_passes_both_ways(sandbox: Sandbox) -> None:
    large = b"x" * (5 << 20)

    assert await run(sandbox, "shout", large, max_bytes=len(large)) == large.upper()


async def test_children_are_used_again(sandbox: Sandbox) -> None:
    assert await run(sandbox, "pid") == await run(sandbox, "pid")


async def test_what_a_function_raises_is_told_and_costs_no_process(sandbox: Sandbox) -> None:
    before = await run(sandbox, "pid")

    with pytest.raises(SandboxFault, match="ValueError: not an image") as caught:
        await run(sandbox, "fail", b"not an image")

    assert caught.value.kind is FaultKind.FAILED
    assert await run(sandbox, "pid") == before


@pytest.mark.parametrize(
    ("name", "payload", "kind"),
    [
        ("hoard", b"400000000", FaultKind.MEMORY),
        ("hoard", b"2000000", FaultKind.TOO_LARGE),
        ("crash", b"", FaultKind.CRASHED),
        ("nothing_of_that_name", b"", FaultKind.FAILED),
    ],
)
async def test_a_fault_is_named_and_the_next_job_is_done(
    sandbox: Sandbox, name: str, payload: bytes, kind: FaultKind
) -> None:
    assert await fault_of(sandbox, name, payload) is kind

    assert await run(sandbox, "shout", b"alive") == b"ALIVE"


@pytest.mark.parametrize("name", ["spin", "linger"])
async def test_a_job_that_takes_too_long_is_killed(sandbox: Sandbox, name: str) -> None:
    assert await fault_of(sandbox, name, timeout_s=1.0) is FaultKind.TIMED_OUT

    assert await run(sandbox, "shout", b"alive") == b"ALIVE"


async def test_a_cancelled_caller_leaves_no_process_behind(sandbox: Sandbox) -> None:
    child = int(await run(sandbox, "pid"))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, sandbox, "linger")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

    assert not is_running(child)
    assert await run(sandbox, "shout", b"alive") == b"ALIVE"


async def test_what_a_library_prints_does_not_mix_with_the_answer(sandbox: Sandbox) -> None:
    assert await run(sandbox, "chatter", b"signal") == b"signal"


async def test_nothing_can_be_written_to_the_disk(sandbox: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "file"

    await fault_of(sandbox, "write", str(target).encode())

    assert not target.exists() or target.stat().st_size == 0


async def test_no_secret_of_the_environment_gets_in(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HS_SECRET", "hush")

    assert b"hush" not in await run(sandbox, "environment")


async def test_more_jobs_than_children_wait_their_turn(sandbox: Sandbox) -> None:
    pids: set[bytes] = set()

    async def note() -> None:
        pids.add(await run(sandbox, "pid"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(note)

    assert 1 <= len(pids) <= 2


async def test_a_child_is_replaced_after_many_jobs(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "JOBS_PER_CHILD", 2)
    first, second, third = [await run(sandbox, "pid") for _ in range(3)]

    assert first == second != third


async def test_the_keeper_ends_every_child_at_the_end(sandbox: Sandbox) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(sandbox.keep)
        child = int(await run(sandbox, "pid"))
        nursery.cancel_scope.cancel()

    assert not is_running(child)


async def test_too_many_waiting_jobs_are_refused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "MAX_WAITING", 0)

    assert await fault_of(sandbox, "shout", timeout_s=math.inf) is FaultKind.BUSY
