"""A time limit for every test: a test that hangs fails, and shows what it waits for."""

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

_TEARDOWN_S = 60.0  # the limit for the teardown of a test that exceeded its limit


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Fail the test if the block takes longer, after printing the stacks of all threads and tasks.

    Works in the main thread only. An enclosing limit is suspended while this one is active.
    """

    def too_late(_signal: int, _frame: FrameType | None) -> NoReturn:
        print_all_stacks()
        pytest.fail(f"took more than {seconds:g} seconds")

    previous_handler = signal.signal(signal.SIGALRM, too_late)
    enclosing_timer = signal.setitimer(signal.ITIMER_REAL, seconds, _TEARDOWN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *enclosing_timer)
        signal.signal(signal.SIGALRM, previous_handler)


def print_all_stacks() -> None:
    """Write the stacks of all threads and all trio tasks to standard error."""
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    for task, depth in _tasks():
        sys.stderr.write(f"{'  ' * depth}task {task.name}\n")
        for frame, line in task.iter_await_frames():
            location = traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
            text = f"{location.filename}:{location.lineno} {location.name}: {location.line}"
            sys.stderr.write(f"{'  ' * depth}  {text}\n")


def _tasks() -> Iterator[tuple[trio.lowlevel.Task, int]]:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:  # trio is not running
        return
    waiting = [(root, 0)] if root is not None else []
    while waiting:
        task, depth = waiting.pop()
        yield task, depth
        waiting += [
            (child, depth + 1) for nursery in task.child_nurseries for child in nursery.child_tasks
        ]
