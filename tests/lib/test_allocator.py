"""The allocator returns freed memory to the operating system."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_large_blocks_are_returned_to_the_kernel() -> None:
    script = """
from hs.lib.allocator import give_memory_back

assert give_memory_back()
# By default, glibc raises its mmap threshold after this allocation, and retains smaller blocks.
b"x" * 20_000_000
blocks = [bytes([n]) * 1_600_000 for n in range(30)]
last = blocks[-1]
del blocks
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmRSS")).split()[1])
"""
    process = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    assert int(process.stdout) < 35_000
