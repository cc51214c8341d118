"""The slot of a gate that a task holds, and leaves while it waits for other servers.

Rules:

- What other servers can delay must not occupy a slot. So a slot is free while its holder, or a task
  that it has started, waits within `left_slot`.
- Taking it again never waits: if all slots are taken by then, its holder continues without one. So
  no lock that it holds can cause a deadlock; the number of such holders is limited by what limits
  those who wait.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

_HELD: "ContextVar[HeldSlot | None]" = ContextVar("held_slot", default=None)


class HeldSlot:
    """A taken slot; `release` frees it, `take_nowait` takes it again if one is free."""

    __slots__ = ("_has_ended", "_is_taken", "_release", "_take_nowait", "_token", "_waiting")

    def __init__(self, release: Callable[[], None], take_nowait: Callable[[], bool]) -> None:
        self._release = release
        self._take_nowait = take_nowait
        self._waiting = 0
        self._is_taken = True
        self._has_ended = False
        self._token: Token[HeldSlot | None] = _HELD.set(self)

    def end(self) -> None:
        """Free the slot for good; called by the task that has made it."""
        _HELD.reset(self._token)
        # Tasks that the holder has started may outlive it.
        self._has_ended = True
        if self._is_taken:
            self._release()

    def leave(self) -> None:
        """Free the slot until as many calls of `resume` have followed."""
        self._waiting += 1
        if self._is_taken and not self._has_ended:
            self._is_taken = False
            self._release()

    def resume(self) -> None:
        """Take the slot again after the last wait, if one is free."""
        self._waiting -= 1
        if not (self._waiting or self._has_ended):
            self._is_taken = self._take_nowait()


@contextmanager
def left_slot() -> Iterator[None]:
    """Leave the slot that the calling task holds, if any, until the block ends."""
    held = _HELD.get()
    if held is None:
        yield
        return
    held.leave()
    try:
        yield
    finally:
        held.resume()
