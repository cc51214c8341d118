"""The allocator is told to give memory back where it can be told."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_pieces_of_memory_go_back_to_the_system() -> None:
    grown = """
from hs.lib.allocator import give_memory_back

assert give_memory_back()
# After this one, glibc would by itself no longer take pieces of less from the system one by one.
b"x" * 20_000_000
pieces = [bytes([n]) * 1_600_000 for n in range(30)]
keep = pieces[-1]
del pieces
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmRSS")).split()[1])
"""
    kilobytes = subprocess.run(
        [sys.executable, "-c", grown], check=True, capture_output=True, text=True
    )

    assert int(kilobytes.stdout) < 35_000
