"""Noticing that clients hang up, without a task or a read for each of them.

One epoll set of the sockets whose requests wait; one task sleeps on the set itself. Watching a
socket costs two system calls, against a nursery with a reading task.
"""

import select

import trio

HAS_EPOLL = hasattr(select, "epoll")


class Hangups:
    """The sockets being watched by one server."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._scopes: dict[int, trio.CancelScope] = {}

    def watch(self, fd: int, scope: trio.CancelScope) -> None:
        """Cancel the scope when the peer of the socket closes its side."""
        self._scopes[fd] = scope
        self._epoll.register(fd, select.EPOLLRDHUP)

    def unwatch(self, fd: int) -> None:
        """Stop watching; harmless when the scope was already cancelled."""
        if self._scopes.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def wait(self, fd: int) -> None:
        """Wait until the peer of the socket has closed its side."""
        with trio.CancelScope() as scope:
            self.watch(fd, scope)
            try:
                await trio.sleep_forever()
            finally:
                self.unwatch(fd)

    async def run(self) -> None:
        """Do the watching; runs until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, _ in self._epoll.poll(0):
                    scope = self._scopes.pop(fd, None)
                    if scope is not None:
                        self._epoll.unregister(fd)
                        scope.cancel()
        finally:
            self._epoll.close()
