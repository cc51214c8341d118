"""systemd as the parent of a process: notifications, the watchdog, and sockets that it opened.

Without the environment variables that systemd sets, nothing happens: a process that is started in
a shell has this parent too.

Spec: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
"""

import contextlib
import logging
import os
import socket
from collections.abc import Mapping

import attrs
import trio

from hs.apis.web.inherited_sockets import InheritedSockets, bound_address
from hs.nursery.service_manager import StopRequest

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"
VARIABLES = (
    "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID",
)  # fmt: skip
_FIRST_FD = 3

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Report a state to systemd; without systemd, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        # The parent may be gone, or may have wanted to know of the start only.
        with contextlib.suppress(OSError):
            manager.sendto(state.encode(), address)


@attrs.frozen(eq=False)
class Systemd:
    """systemd, or a shell."""

    sockets: InheritedSockets = attrs.field(factory=lambda: passed_sockets(os.environ))

    async def run(
        self, _stop: StopRequest, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Report that the process is alive, as often as the watchdog expects it."""
        task_status.started()
        await keep_watchdog()

    async def wait_for_turn(self) -> None:
        """Return at once: the lease on the name of the process makes it wait."""

    def announce_ready(self, _addresses: str) -> None:
        """Report that the process is ready."""
        notify(READY)

    def announce_stop(self) -> None:
        """Report that the process stops."""
        notify(STOPPING)


async def keep_watchdog() -> None:
    """Report that this event loop is alive, for as long as systemd expects it."""
    period_s = watchdog_period_s(os.environ)
    while period_s is not None:
        notify(WATCHDOG)
        await trio.sleep(period_s)


def watchdog_period_s(environ: Mapping[str, str]) -> float | None:
    """Return how often the watchdog is to be told of life: twice in its time limit."""
    limit_us = environ.get("WATCHDOG_USEC", "")
    is_ours = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(limit_us) / 2e6 if limit_us.isdecimal() and int(limit_us) and is_ours else None


def passed_sockets(environ: Mapping[str, str]) -> InheritedSockets:
    """Return the listening sockets that systemd passed to this process."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return InheritedSockets()
    found: dict[tuple[str, int], socket.socket] = {}
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        if sock.type == socket.SOCK_STREAM and _listens(sock):
            found[bound_address(sock)] = sock
        else:
            log.warning("systemd passed file %d, which is not a listening socket; ignored", fd)
    return InheritedSockets(found)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
