"""What starts and watches a process: systemd, `hs supervise`, or nothing but a shell."""

from collections.abc import Callable
from typing import Protocol

import trio

from hs.apis.web.inherited_sockets import InheritedSockets

StopRequest = Callable[[], None]
"""Begins to stop; idempotent."""


class ServiceManager(Protocol):
    """The parent of a process, as far as the process needs to know it."""

    @property
    def sockets(self) -> InheritedSockets:
        """Return the listening sockets that the parent opened."""
        ...

    async def run(
        self, stop: StopRequest, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Report signs of life, and request a stop if the parent is gone; runs until cancelled."""
        ...

    async def wait_for_turn(self) -> None:
        """Wait until an earlier process of the same name has ended, if the parent knows of one."""
        ...

    def announce_ready(self, addresses: str) -> None:
        """Report that the process serves clients at these addresses."""
        ...

    def announce_stop(self) -> None:
        """Report that the process has begun to stop."""
        ...
