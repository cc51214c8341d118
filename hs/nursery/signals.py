"""Signals: the first SIGTERM or SIGINT drains, a second ends at once, SIGHUP reopens logs."""

import os
import signal
from collections.abc import Callable

import trio

KILLED_STATUS = 130


async def watch_signals(
    stop: Callable[[], None],
    reopen_logs: Callable[[], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `stop` at the first request to end, `reopen_logs` at each SIGHUP; never returns."""
    stopping = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number == signal.SIGHUP:
                reopen_logs()
            elif stopping:
                os._exit(KILLED_STATUS)
            else:
                stopping = True
                stop()
