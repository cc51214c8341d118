"""Deadlines of many things, most of which are over long before: one timer for all of them.

A cancel scope with a deadline for each would cost more than most of what such things do.
"""

import math
from collections.abc import Callable, Hashable
from typing import Generic, NoReturn, TypeVar

import attrs
import trio

K = TypeVar("K", bound=Hashable)


@attrs.define(eq=False)
class Deadlines(Generic[K]):
    """Calls `expire` with each key whose deadline passes before it is removed."""

    _expire: Callable[[K], None]
    _deadlines: dict[K, float] = attrs.field(factory=dict, init=False)
    _look_at: float = attrs.field(default=math.inf, init=False)
    _pause: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def add(self, key: K, deadline: float) -> None:
        """Set the deadline of a key, a time of trio's clock."""
        self._deadlines[key] = deadline
        if deadline < self._look_at:
            self._look_at = self._pause.deadline = deadline

    def remove(self, key: K) -> None:
        """Forget a key, if it is known."""
        self._deadlines.pop(key, None)

    async def run(self) -> NoReturn:
        """Watch the deadlines until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._look_at) as self._pause:
                await trio.sleep_forever()
            now = trio.current_time()
            for key in [key for key, deadline in self._deadlines.items() if deadline <= now]:
                del self._deadlines[key]
                self._expire(key)
            # Keys that were added and removed meanwhile cost nothing but an early look.
            self._look_at = min(self._deadlines.values(), default=math.inf)
