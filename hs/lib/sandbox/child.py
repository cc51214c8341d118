"""The inside of a sandbox: a process that runs jobs from its standard input, one at a time.

Started by `hs.lib.sandbox.pool`. The process sets its own resource limits before the first job. A
job names a function of this server, `module:name`, which takes and returns bytes; its input may be
hostile. The process may read files, but cannot write files or start threads or processes (unless it
runs as root, which it should not).
"""

import importlib
import math
import os
import resource
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

# Length of the function's name, length of the payload, CPU seconds, largest result.
JOB = struct.Struct(">HQdQ")
# Outcome, and length of the result or of the error message.
RESPONSE = struct.Struct(">BQ")
DONE, FAILED, OUT_OF_MEMORY, RESULT_TOO_LARGE = range(4)
READY = b"\x06"

_OPEN_FILES = 64
_NICENESS = 5
_MAX_MESSAGE_BYTES = 500


def main(memory_bytes: int) -> None:
    """Run jobs until the standard input ends."""
    jobs, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Text that a library prints must not end up among the results.
    null_device = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null_device, descriptor)
    _limit(memory_bytes)
    results.write(READY)
    results.flush()
    while _serve_one(jobs, results):
        pass


def _limit(memory_bytes: int) -> None:
    os.nice(_NICENESS)
    try:
        # If the machine runs out of memory, the kernel should kill this process first.
        with open("/proc/self/oom_score_adj", "w") as score_file:
            score_file.write("1000")
    except OSError:
        pass
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        allowed = _lower(limit, resource.getrlimit(kind)[1])
        resource.setrlimit(kind, (allowed, allowed))


def _serve_one(jobs: BinaryIO, results: BinaryIO) -> bool:
    head = jobs.read(JOB.size)
    if len(head) < JOB.size:
        return False
    name_length, length, cpu_s, max_bytes = JOB.unpack(head)
    name = jobs.read(name_length).decode()
    _allow_cpu(cpu_s)
    try:
        result = _function(name)(jobs.read(length))
        outcome = DONE
        if len(result) > max_bytes:
            outcome, result = RESULT_TOO_LARGE, b"%d bytes" % len(result)
    except MemoryError:
        outcome, result = OUT_OF_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - reported to the parent
        outcome, result = FAILED, f"{type(error).__name__}: {error}".encode()[:_MAX_MESSAGE_BYTES]
    results.write(RESPONSE.pack(outcome, len(result)))
    results.write(result)
    results.flush()
    # After a MemoryError the state of the process cannot be relied on.
    return outcome != OUT_OF_MEMORY


def _allow_cpu(cpu_s: float) -> None:
    """Let the kernel end this process once the next job has used `cpu_s` seconds of CPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + cpu_s)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (_lower(soft, hard), hard))


def _lower(limit: int, hard: int) -> int:
    """Return the limit, or the hard limit set from outside if that is lower."""
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _function(name: str) -> Callable[[bytes], bytes]:
    module, _, attribute = name.partition(":")
    function: Callable[[bytes], bytes] = getattr(importlib.import_module(module), attribute)
    return function


if __name__ == "__main__":
    main(int(sys.argv[1]))
