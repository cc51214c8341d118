"""A limit for every test, so that one that waits for ever fails and says what it waits for."""

import faulthandler
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import pytest
import trio

_AGAIN_S = 60.0  # for the teardown of a test that has run into its limit


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Fail what runs inside when it takes longer, after telling where its threads and tasks are.

    Only in the main thread. What is left of a limit around this one is lengthened by it.
    """

    def too_late(_signal: int, _frame: FrameType | None) -> NoReturn:
        tell_where_all_are()
        pytest.fail(f"took more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    around = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *around)
        signal.signal(signal.SIGALRM, before)


def tell_where_all_are() -> None:
    """Write the stacks of all threads and of all of trio's tasks to standard error."""
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    for task, depth in _tasks():
        sys.stderr.write(f"{'  ' * depth}task {task.name}\n")
        for frame, line in task.iter_await_frames():
            at = traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
            told = f"{at.filename}:{at.lineno} {at.name}: {at.line}"
            sys.stderr.write(f"{'  ' * depth}  {told}\n")


def _tasks() -> Iterator[tuple[trio.lowlevel.Task, int]]:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:  # no run
        return
    waiting = [(root, 0)] if root is not None else []
    while waiting:
        task, depth = waiting.pop()
        yield task, depth
        waiting += [
            (child, depth + 1) for nursery in task.child_nurseries for child in nursery.child_tasks
        ]
