"""Counts how much Python code runs: a measure that does not depend on the machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import attrs


@attrs.define
class Steps:
    """The number of bytecode instructions that this thread has executed."""

    count: int = 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Count the instructions of a frame; a trace function."""
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count += 1
        return self.trace


@contextmanager
def counting_steps() -> Iterator[Steps]:
    """Count the instructions that run in the block, but for those of its own function."""
    steps, before = Steps(), sys.gettrace()
    sys.settrace(steps.trace)
    try:
        yield steps
    finally:
        sys.settrace(before)
