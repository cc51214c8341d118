"""Programs between the clients of end-to-end tests and the server.

HS_E2E_PROXY is the command of one that inspects the traffic: `{listen}` is replaced by the port
that clients use, and `{upstream}` by the URL of the server process. It is started once for each
process of each server. Example:

    HS_E2E_PROXY="hsconform proxy --listen {listen} --upstream {upstream} --out {listen}.jsonl"
"""

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
_HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    retries 3
    option abortonclose
    option redispatch
frontend clients
    bind 127.0.0.1:{listen}
    default_backend processes
backend processes
    balance random(1)
{servers}
"""


class HaproxyMissing(RuntimeError):
    """HAProxy is not installed."""


@contextmanager
def proxy_before(upstream: str, listen: int) -> Iterator[None]:
    """Run the program in front of a URL; clients must use port `listen`."""
    command = [
        part.format(listen=listen, upstream=upstream)
        for part in shlex.split(os.environ["HS_E2E_PROXY"])
    ]
    with _running(command, listen):
        yield


@contextmanager
def haproxy_before(ports: Sequence[int], listen: int, folder: Path) -> Iterator[None]:
    """Run HAProxy, which passes each request at port `listen` on to a random one of `ports`.

    Raises: HaproxyMissing.
    """
    servers = "\n".join(f"    server p{port} 127.0.0.1:{port}" for port in ports)
    config = folder / f"haproxy-{listen}.cfg"
    config.write_text(_HAPROXY.format(listen=listen, servers=servers))
    with running_haproxy(config, listen):
        yield


@contextmanager
def running_haproxy(config: Path, listen: int) -> Iterator[None]:
    """Run HAProxy with a configuration that listens at a port.

    Raises: HaproxyMissing.
    """
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise HaproxyMissing("install haproxy to run this test")
    with _running([program, "-db", "-f", str(config)], listen):
        yield


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_listens(process, port)
            yield
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
    raise RuntimeError(f"nothing listens on port {port}: {process.args!r}")
