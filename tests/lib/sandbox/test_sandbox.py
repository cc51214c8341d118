"""The sandbox survives faults of its functions, and so does the caller."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from hs.lib.sandbox import pool as sandbox_module
from hs.lib.sandbox.pool import Sandbox, SandboxFault, SandboxFaultKind

FUNCTIONS = "tests.support.sandboxed"
# Far above the duration of any job here; reached only if something hangs.
TIMEOUT_S = 60.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    pool = Sandbox(children=2, memory_bytes=256 << 20)
    yield pool
    await pool.aclose()


async def run(
    sandbox: Sandbox,
    name: str,
    payload: bytes = b"",
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = 1 << 20,
) -> bytes:
    return await sandbox.run(
        f"{FUNCTIONS}:{name}", payload, timeout_s=timeout_s, max_bytes=max_bytes
    )


async def fault_of(
    sandbox: Sandbox, name: str, payload: bytes = b"", **bounds: float
) -> SandboxFaultKind:
    with pytest.raises(SandboxFault) as caught:
        await run(sandbox, name, payload, **bounds)  # type: ignore[arg-type]  # bounds by name
    return caught.value.kind


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_function_runs_in_the_sandbox(sandbox: Sandbox) -> None:
    assert await run(sandbox, "shout", b"quiet") == b"QUIET"


async def test_large_payload_is_transferred_both_ways(sandbox: Sandbox) -> None:
    large = b"x" * (5 << 20)

    assert await run(sandbox, "shout", large, max_bytes=len(large)) == large.upper()


async def test_child_is_reused(sandbox: Sandbox) -> None:
    assert await run(sandbox, "pid") == await run(sandbox, "pid")


async def test_exception_is_reported_and_child_is_reused(sandbox: Sandbox) -> None:
    before = await run(sandbox, "pid")

    with pytest.raises(SandboxFault, match="ValueError: not an image") as caught:
        await run(sandbox, "fail", b"not an image")

    assert caught.value.kind is SandboxFaultKind.FAILED
    assert await run(sandbox, "pid") == before


@pytest.mark.parametrize(
    ("name", "payload", "kind"),
    [
        ("hoard", b"400000000", SandboxFaultKind.MEMORY),
        ("hoard", b"2000000", SandboxFaultKind.TOO_LARGE),
        ("crash", b"", SandboxFaultKind.CRASHED),
        ("no_such_function", b"", SandboxFaultKind.FAILED),
    ],
)
async def test_fault_has_its_kind_and_next_job_succeeds(
    sandbox: Sandbox, name: str, payload: bytes, kind: SandboxFaultKind
) -> None:
    assert await fault_of(sandbox, name, payload) is kind

    assert await run(sandbox, "shout", b"alive") == b"ALIVE"


@pytest.mark.parametrize("name", ["spin", "linger"])
async def test_job_that_takes_too_long_is_killed(sandbox: Sandbox, name: str) -> None:
    assert await fault_of(sandbox, name, timeout_s=1.0) is SandboxFaultKind.TIMED_OUT

    assert await run(sandbox, "shout", b"alive") == b"ALIVE"


async def test_cancelled_caller_kills_the_child(sandbox: Sandbox) -> None:
    child = int(await run(sandbox, "pid"))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, sandbox, "linger")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

    assert not is_running(child)
    assert await run(sandbox, "shout", b"alive") == b"ALIVE"


async def test_printed_output_does_not_corrupt_the_result(sandbox: Sandbox) -> None:
    assert await run(sandbox, "chatter", b"signal") == b"signal"


async def test_child_cannot_write_files(sandbox: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "file"

    await fault_of(sandbox, "write", str(target).encode())

    assert not target.exists() or target.stat().st_size == 0


async def test_environment_of_the_server_is_not_passed_on(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HS_SECRET", "hush")

    assert b"hush" not in await run(sandbox, "environment")


async def test_more_jobs_than_children_wait(sandbox: Sandbox) -> None:
    pids: set[bytes] = set()

    async def record_pid() -> None:
        pids.add(await run(sandbox, "pid"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(record_pid)

    assert 1 <= len(pids) <= 2


async def test_child_is_replaced_after_maximum_number_of_jobs(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "JOBS_PER_CHILD", 2)
    first, second, third = [await run(sandbox, "pid") for _ in range(3)]

    assert first == second != third


async def test_keep_ends_all_children_when_cancelled(sandbox: Sandbox) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(sandbox.run_reaper)
        child = int(await run(sandbox, "pid"))
        nursery.cancel_scope.cancel()

    assert not is_running(child)


async def test_too_many_waiting_jobs_are_rejected(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "MAX_WAITING", 0)

    assert await fault_of(sandbox, "shout", timeout_s=math.inf) is SandboxFaultKind.BUSY
