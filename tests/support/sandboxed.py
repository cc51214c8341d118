"""Functions that tests run in the sandbox; most of them misbehave in a particular way."""

import ctypes
import os
import time
from pathlib import Path


def shout(payload: bytes) -> bytes:
    return payload.upper()


def pid(payload: bytes) -> bytes:
    return str(os.getpid()).encode()


def fail(payload: bytes) -> bytes:
    raise ValueError(payload.decode())


def hoard(payload: bytes) -> bytes:
    return bytes(int(payload))


def crash(payload: bytes) -> bytes:
    ctypes.string_at(0)
    return b""


def spin(payload: bytes) -> bytes:
    while True:
        pass


def linger(payload: bytes) -> bytes:
    time.sleep(3600)
    return b""


def chatter(payload: bytes) -> bytes:
    os.write(1, b"noise on the standard output")
    return payload


def write(payload: bytes) -> bytes:
    path = payload.decode()
    with open(path, "wb") as file:
        file.write(b"x")
    return b""


def peak_memory(payload: bytes) -> bytes:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return str(int(line.split()[1]) * 1024).encode()
    return b"0"


def environment(payload: bytes) -> bytes:
    return "\n".join(f"{name}={value}" for name, value in os.environ.items()).encode()
