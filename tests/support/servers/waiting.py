"""Waits for what other processes do."""

from collections.abc import Callable

import trio


async def wait_until(holds: Callable[[], bool], within_s: float) -> None:
    """Wait until a condition holds, which is checked in a thread. Raises: TooSlowError."""
    with trio.fail_after(within_s):
        while not await trio.to_thread.run_sync(holds):  # noqa: ASYNC110 - of other processes
            await trio.sleep(0.1)
