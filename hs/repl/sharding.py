"""Services of a stream with several writers: each call goes to the process that owns the key.

- A service in a process that may own keys is `guarded`: it answers NotOwner for keys that the
  process does not own at the moment, and counts the calls that run.
- The proxy calls the owner by what this process knows. On NotOwner it looks again, and tries again
  for RETRY_S; then the client is asked to.
- A process that cannot be reached may have carried out the call, so the call is not sent to
  another one: the client decides, and finds the new owner.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.core.errors import MatrixError, NotOwner
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.rpc import rpc_methods
from hs.repl.slots.table import SlotTable

P = TypeVar("P")
T = TypeVar("T")

RETRY_S: Final = 8.0
FIRST_PAUSE_S: Final = 0.02
LAST_PAUSE_S: Final = 0.5


class OwnerChanging(MatrixError):
    """Nobody has taken over in time; the client may retry."""

    def __init__(self) -> None:
        super().__init__(
            "M_UNKNOWN", 503, "Another process takes over; try again", retry_after_ms=2000
        )


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
        """Call the process that `owner_of` returns, again if it does not own the key.

        Raises: OwnerChanging; what the call raises.
        """
        deadline, pause_s = trio.current_time() + RETRY_S, FIRST_PAUSE_S
        while True:
            owner = owner_of()
            try:
                return await call(owner)
            except NotOwner as refusal:
                self._note(refusal)
                if trio.current_time() >= deadline:
                    raise OwnerChanging from refusal
            except RpcUnavailable:
                await self.refresh()
                raise
            if owner_of() == owner:
                await self.slots.wait_changed(pause_s)
                pause_s = min(pause_s * 2, LAST_PAUSE_S)
                if owner_of() == owner:
                    await self.refresh()

    def _note(self, refusal: NotOwner) -> None:
        known = refusal.extra
        stream, slot = known.get("stream"), known.get("slot")
        holder, epoch = known.get("holder"), known.get("epoch")
        if isinstance(slot, int) and isinstance(epoch, int) and stream in self.slots.configured:
            self.slots.note(str(stream), slot, str(holder), epoch)


@attrs.frozen(eq=False)
class FixedOwners:
    """Calls of the owners of keys that never pass to another process while the owner runs."""

    owner: Callable[[str], str]

    async def call(self, owner_of: Callable[[], str], call: Callable[[str], Awaitable[T]]) -> T:
        """Call the process that `owner_of` returns."""
        return await call(owner_of())


def sharded_proxy(
    protocol: type[P], service_of: Callable[[str], P], owners: OwnerCalls | FixedOwners
) -> P:
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
    name: str, service_of: Callable[[str], Any], owners: OwnerCalls | FixedOwners
) -> Callable[..., Any]:
    async def call(_: object, key: str, *args: Any, **kwargs: Any) -> Any:
        async def at(owner: str) -> Any:
            return await getattr(service_of(owner), name)(key, *args, **kwargs)

        return await owners.call(lambda: owners.owner(key), at)

    call.__name__ = name
    return call


def _checked(method: Callable[..., Awaitable[Any]], owners: OwnerCalls) -> Callable[..., Any]:
    async def call(_: object, key: str, *args: Any, **kwargs: Any) -> Any:
        with owners.slots.calling(owners.stream, key):
            return await method(key, *args, **kwargs)

    call.__name__ = getattr(method, "__name__", "call")
    return call
