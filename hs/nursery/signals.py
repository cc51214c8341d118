"""Signals: the first SIGTERM or SIGINT drains, a second exits at once, SIGHUP reloads."""

import os
import signal
from collections.abc import Callable

import trio

KILLED_STATUS = 130


async def watch_signals(
    stop: Callable[[], None],
    reload: Callable[[], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `stop` at the first SIGTERM or SIGINT and `reload` at each SIGHUP; never return."""
    stopping = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number == signal.SIGHUP:
                reload()
            elif stopping:
                os._exit(KILLED_STATUS)
            else:
                stopping = True
                stop()
