"""The inside of a sandbox: a process that takes one job after the other from its standard input.

Started by `hs.lib.sandbox.pool` with limits that it sets on itself before the first job. A job
names a function of ours, `module:name`, which takes and returns bytes; its input may be hostile.
It may read files, but neither write to any nor start a thread or process (root may, but should
not).
"""

import importlib
import math
import os
import resource
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

# Length of the function's name, of the payload, processor seconds, longest answer.
JOB = struct.Struct(">HQdQ")
# Outcome and length of the answer, or of the words on what went wrong.
ANSWER = struct.Struct(">BQ")
DONE, FAILED, OUT_OF_MEMORY, ANSWER_TOO_LARGE = range(4)
READY = b"\x06"

_OPEN_FILES = 64
_NICENESS = 5
_WORDS = 500


def main(memory_bytes: int) -> None:
    """Serve until the standard input ends."""
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library prints must not end up between the answers.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    _limit(memory_bytes)
    answers.write(READY)
    answers.flush()
    while _serve_one(jobs, answers):
        pass


def _limit(memory_bytes: int) -> None:
    os.nice(_NICENESS)
    try:
        # When the machine runs out of memory, this process goes first.
        with open("/proc/self/oom_score_adj", "w") as own:
            own.write("1000")
    except OSError:
        pass
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        least = _lower(limit, resource.getrlimit(kind)[1])
        resource.setrlimit(kind, (least, least))


def _serve_one(jobs: BinaryIO, answers: BinaryIO) -> bool:
    head = jobs.read(JOB.size)
    if len(head) < JOB.size:
        return False
    name_length, length, processor_s, max_bytes = JOB.unpack(head)
    name = jobs.read(name_length).decode()
    _allow(processor_s)
    try:
        answer = _function(name)(jobs.read(length))
        outcome = DONE
        if len(answer) > max_bytes:
            outcome, answer = ANSWER_TOO_LARGE, b"%d bytes" % len(answer)
    except MemoryError:
        outcome, answer = OUT_OF_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - told to whoever gave the job
        outcome, answer = FAILED, f"{type(error).__name__}: {error}".encode()[:_WORDS]
    answers.write(ANSWER.pack(outcome, len(answer)))
    answers.write(answer)
    answers.flush()
    # After a lack of memory nothing here can be relied on.
    return outcome != OUT_OF_MEMORY


def _allow(processor_s: float) -> None:
    """Let the next job have so much of the processor; more ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + processor_s)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (_lower(soft, hard), hard))


def _lower(limit: int, hard: int) -> int:
    """Give the limit, or the one that was set from outside if that is lower."""
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _function(name: str) -> Callable[[bytes], bytes]:
    module, _, attribute = name.partition(":")
    function: Callable[[bytes], bytes] = getattr(importlib.import_module(module), attribute)
    return function


if __name__ == "__main__":
    main(int(sys.argv[1]))
