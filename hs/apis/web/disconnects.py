"""Noticing that clients hang up, without a task or a read for each of them.

One epoll set of the sockets whose requests wait; one task sleeps on the set itself. A socket is
registered at the first request that waits, for as long as its connection lives: watching it
again costs no system call.
"""

import select

import trio

HAS_EPOLL = hasattr(select, "epoll")
_ONCE = select.EPOLLRDHUP | select.EPOLLONESHOT if HAS_EPOLL else 0


class Hangups:
    """The sockets being watched by one server."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._scopes: dict[int, trio.CancelScope] = {}
        # Registered sockets, and whether their peers have closed their side.
        self._gone: dict[int, bool] = {}

    def watch(self, fd: int, scope: trio.CancelScope) -> None:
        """Cancel the scope when the peer of the socket closes its side, or has done so."""
        gone = self._gone.get(fd)
        if gone is None:
            self._gone[fd] = False
            self._epoll.register(fd, _ONCE)
        elif gone:
            scope.cancel()
        self._scopes[fd] = scope

    def unwatch(self, fd: int) -> None:
        """Stop watching; harmless when the scope was already cancelled."""
        self._scopes.pop(fd, None)

    def forget(self, fd: int) -> None:
        """Let go of a socket that is about to be closed."""
        self._scopes.pop(fd, None)
        if self._gone.pop(fd, None) is not None:
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
                    if fd in self._gone:
                        self._gone[fd] = True
                    scope = self._scopes.pop(fd, None)
                    if scope is not None:
                        scope.cancel()
        finally:
            self._epoll.close()
