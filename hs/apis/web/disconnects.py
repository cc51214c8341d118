"""Noticing disconnects without a task or a read per connection.

The sockets of all watched requests are in one epoll set, and one task waits for the set itself.
Nothing is read, so pipelined requests stay in the kernel until the connection reads them. A TLS
connection is watched by the socket below it.

Rules, and the races that they settle:

- A socket is registered when its connection is first watched and stays registered until the
  connection ends, so watching it again costs no system call. Registration is one-shot, because a
  client closes its side only once, and a level-triggered event would keep waking the task.
- The event may fire between two requests, when the socket is not being watched. `_closed` remembers
  it, and the next watch() cancels its scope immediately.
- A client that has closed before its socket is registered is noticed too: epoll reports the
  current state on registration.
- Registering, handling events and unwatching happen in one thread with no await in between, so a
  scope is never cancelled after unwatch() has returned.
- forget() must be called before the socket is closed. The kernel reuses file descriptors, and a
  new connection must not inherit the entry of an old one.
- A half-close counts as a disconnect. An HTTP client has no reason to close its sending side while
  it is waiting for a response.
"""

import select

import trio

HAS_EPOLL = hasattr(select, "epoll")
_PEER_CLOSED_ONCE = select.EPOLLRDHUP | select.EPOLLONESHOT if HAS_EPOLL else 0


class DisconnectWatcher:
    """The watched sockets of one server."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._scopes: dict[int, trio.CancelScope] = {}
        # Registered sockets, and whether the client has closed its side.
        self._closed: dict[int, bool] = {}

    def watch(self, fd: int, scope: trio.CancelScope) -> None:
        """Cancel the scope when the client closes its side of the socket, or if it already has."""
        closed = self._closed.get(fd)
        if closed is None:
            self._closed[fd] = False
            self._epoll.register(fd, _PEER_CLOSED_ONCE)
        elif closed:
            scope.cancel()
        self._scopes[fd] = scope

    def unwatch(self, fd: int) -> None:
        """Stop watching; does nothing if the scope was already cancelled."""
        self._scopes.pop(fd, None)

    def forget(self, fd: int) -> None:
        """Unregister a socket that is about to be closed."""
        self._scopes.pop(fd, None)
        if self._closed.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def wait(self, fd: int) -> None:
        """Wait until the client has closed its side of the socket."""
        with trio.CancelScope() as scope:
            self.watch(fd, scope)
            try:
                await trio.sleep_forever()
            finally:
                self.unwatch(fd)

    async def run(self) -> None:
        """Cancel the scopes of clients that disconnect; runs until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, _ in self._epoll.poll(0):
                    if fd in self._closed:
                        self._closed[fd] = True
                    scope = self._scopes.pop(fd, None)
                    if scope is not None:
                        scope.cancel()
        finally:
            self._epoll.close()
