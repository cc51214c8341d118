"""A program between the clients of end-to-end tests and the server, which inspects the traffic.

HS_E2E_PROXY is its command: `{listen}` is replaced by the port that clients use, and `{upstream}`
by the URL of the server process. It is started once for each process of each server. Example:

    HS_E2E_PROXY="hsconform proxy --listen {listen} --upstream {upstream} --out {listen}.jsonl"
"""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0


@contextmanager
def proxy_before(upstream: str, listen: int) -> Iterator[int]:
    """Run the program in front of a URL; yield the port that clients must use."""
    command = [
        part.format(listen=listen, upstream=upstream)
        for part in shlex.split(os.environ["HS_E2E_PROXY"])
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_listens(process, listen)
            yield listen
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            finally:
                process.kill()


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"HS_E2E_PROXY does not listen on port {port}: {process.args!r}")
