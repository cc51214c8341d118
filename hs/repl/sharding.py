"""Services of a stream with several writers: each call goes to the process that owns the key.

- A service in a process that may own keys is `guarded`, or has a `KeyGuard` if its calls are about
  many keys: it answers NotOwner for keys that the process does not own at the moment, and counts
  the calls that run.
- The proxy calls the owner by what this process knows. On NotOwner it looks again, and tries again
  for RETRY_S; then the client is asked to.
- A call that the process cannot have begun (CallNotBegun, see `hs/repl/calls/sender.py`) goes on to
  the new owner as soon as one is known, or to the same process when that is back.
- Else a process that cannot be reached may have carried out the call, so the call is not sent to
  another one: the client decides, and finds the new owner.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.core.errors import NotOwner, ProcessUnavailable
from hs.repl.calls.owner_groups import by_owner, call_owners
from hs.repl.calls.reply import CallNotBegun, RpcUnavailable
from hs.repl.rpc import rpc_methods
from hs.repl.slots.table import SlotTable

P = TypeVar("P")
T = TypeVar("T")
V = TypeVar("V")

KeyGuard = Callable[[Iterable[str]], AbstractContextManager[None]]
"""Returns the context in which a process writes keys. Raises: NotOwner, on entry."""

RETRY_S: Final = 8.0
RETURN_S: Final = 30.0  # for which calls that were not begun wait for a process to return
FIRST_PAUSE_S: Final = 0.02
LAST_PAUSE_S: Final = 0.5


class OwnerChanging(ProcessUnavailable):
    """Nobody has taken over in time; the client may retry."""

    def __init__(self) -> None:
        super().__init__("Another process takes over; try again")


@attrs.frozen(eq=False)
class OwnerCalls:
    """Calls of the owners of keys of a stream; `refresh` reads the table of slots again."""

    stream: str
    slots: SlotTable
    refresh: Callable[[], Awaitable[None]]

    def owner(self, key: str) -> str:
        """Return the process that owns a key, by what this process knows."""
        return self.slots.holder(self.stream, key)

    async def call(self, owner_of: Callable[[], str], call: Callable[[str], Awaitable[T]]) -> T:
        """Call the process that `owner_of` returns, again if it has not taken the call.

        Raises: OwnerChanging; what the call raises.
        """
        patience = _Patience(self)
        while True:
            owner = owner_of()
            try:
                return await call(owner)
            except (NotOwner, CallNotBegun) as refusal:
                await patience.wait(refusal, partial(_differs, owner_of, owner))
            except RpcUnavailable:
                await self.refresh()
                raise

    async def call_all(
        self,
        items: Iterable[V],
        key_of: Callable[[V], str],
        call: Callable[[str, list[V]], Awaitable[T]],
    ) -> list[T]:
        """Call the owners of items at the same time, each with its own; return their results.

        An owner refuses all of its items or none. Those that were refused go to the owners of
        their keys at that time. Raises: OwnerChanging; what the first call that failed raised,
        after all calls have ended.
        """
        patience, results = _Patience(self), list[T]()
        parts = by_owner(items, key_of, self.owner)
        while refused := await self._call_each(parts, call, results):
            left = [(owner, item) for owner in refused for item in parts[owner]]
            for refusal in refused.values():
                await patience.wait(refusal, partial(self._have_moved, left, key_of))
            parts = by_owner((item for _, item in left), key_of, self.owner)
        return results

    async def _call_each(
        self,
        parts: Mapping[str, list[V]],
        call: Callable[[str, list[V]], Awaitable[T]],
        results: list[T],
    ) -> dict[str, NotOwner | CallNotBegun]:
        """Call owners, and add their results; return why others have not taken their calls."""
        refused: dict[str, NotOwner | CallNotBegun] = {}

        async def call_owner(owner: str, part: list[V]) -> None:
            try:
                results.append(await call(owner, part))
            except (NotOwner, CallNotBegun) as refusal:
                refused[owner] = refusal
            except RpcUnavailable:
                await self.refresh()
                raise

        await call_owners(parts, call_owner)
        return refused

    def _have_moved(self, items: Iterable[tuple[str, V]], key_of: Callable[[V], str]) -> bool:
        return any(self.owner(key_of(item)) != owner for owner, item in items)


def _differs(owner_of: Callable[[], str], owner: str) -> bool:
    return owner_of() != owner


@attrs.define(eq=False)
class _Patience:
    """How long calls that were not taken are repeated."""

    _owners: OwnerCalls
    _not_begun_until: float = attrs.field(factory=lambda: trio.current_time() + RETURN_S)
    _refused_until: float | None = None
    _pause_s: float = FIRST_PAUSE_S

    async def wait(self, refusal: NotOwner | CallNotBegun, has_moved: Callable[[], bool]) -> None:
        """Wait until another owner is known, not for long. Raises: OwnerChanging."""
        slots, known = self._owners.slots, refusal.extra
        stream, slot = known.get("stream"), known.get("slot")
        holder, epoch = known.get("holder"), known.get("epoch")
        if isinstance(slot, int) and isinstance(epoch, int) and stream in slots.configured:
            slots.note(str(stream), slot, str(holder), epoch)
        if trio.current_time() >= self._deadline(refusal):
            raise OwnerChanging from refusal
        if not has_moved():
            await slots.wait_changed(self._pause_s)
            self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)
            if not has_moved():
                await self._owners.refresh()

    def _deadline(self, refusal: NotOwner | CallNotBegun) -> float:
        if isinstance(refusal, CallNotBegun):
            return self._not_begun_until
        # Counted from the first refusal: the call may have waited for another process before.
        if self._refused_until is None:
            self._refused_until = trio.current_time() + RETRY_S
        return self._refused_until


def unguarded(keys: Iterable[str]) -> AbstractContextManager[None]:
    """Return the context in which the only writer of a stream writes any keys."""
    return nullcontext()


def sharded_proxy(protocol: type[P], service_of: Callable[[str], P], owners: OwnerCalls) -> P:
    """Return an object whose `@rpc` methods call the service of the owner of their first argument.

    `service_of` returns the service, or a proxy of it, of a process.
    """
    methods = {name: _of_owner(name, service_of, owners) for name in rpc_methods(protocol)}
    proxy: P = type(f"Sharded{protocol.__name__}", (), methods)()
    return proxy


def guarded(protocol: type[P], service: P, owners: OwnerCalls) -> P:
    """Return a service that refuses calls about keys that this process does not own."""
    methods = {name: _checked(getattr(service, name), owners) for name in rpc_methods(protocol)}
    guard: P = type(f"Guarded{protocol.__name__}", (), methods)()
    return guard


def _of_owner(
    name: str, service_of: Callable[[str], Any], owners: OwnerCalls
) -> Callable[..., Any]:
    async def call(_: object, key: str, *args: Any, **kwargs: Any) -> Any:
        async def at(owner: str) -> Any:
            return await getattr(service_of(owner), name)(key, *args, **kwargs)

        return await owners.call(lambda: owners.owner(key), at)

    call.__name__ = name
    return call


def _checked(method: Callable[..., Awaitable[Any]], owners: OwnerCalls) -> Callable[..., Any]:
    async def call(_: object, key: str, *args: Any, **kwargs: Any) -> Any:
        with owners.slots.calling(owners.stream, (key,)):
            return await method(key, *args, **kwargs)

    call.__name__ = getattr(method, "__name__", "call")
    return call
