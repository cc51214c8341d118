"""Equal work asked for by several tasks at once is done once."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar, TypeVarTuple

import outcome
import trio

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Flight:
    """Work under way; no result at its end means that the task doing it was cancelled."""

    __slots__ = ("landed", "result")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.result: outcome.Outcome[Any] | None = None


class SingleFlight(Generic[K]):
    """Joins equal calls: the first task does the work, the others wait for its result.

    When that task is cancelled, one of those waiting does the work instead.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight] = {}

    async def run(self, key: K, afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Call `afn(*args)`, or wait for the call under way for the same key.

        An exception reaches everybody who waits.
        """
        while (flight := self._flights.get(key)) is not None:
            await flight.landed.wait()
            if flight.result is not None:
                result: T = _again(flight.result)
                return result
        return await self._fly(key, afn, *args)

    def forget(self, key: K) -> None:
        """Let the next caller start anew, though work for the key is under way."""
        self._flights.pop(key, None)

    async def _fly(self, key: K, afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        flight = self._flights[key] = _Flight()
        try:
            result = await afn(*args)
            flight.result = outcome.Value(result)
            return result
        except Exception as error:
            flight.result = outcome.Error(error)
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set()


def _again(result: outcome.Outcome[Any]) -> Any:
    # An Outcome unwraps only once, and here each waiting task does it.
    if isinstance(result, outcome.Error):
        raise result.error
    assert isinstance(result, outcome.Value)
    return result.value
