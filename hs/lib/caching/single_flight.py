"""Joining of equal calls: concurrent calls with the same key share one execution.

Rules:

- The first caller runs the function; the others wait for its result. An exception reaches all.
- If the first caller is cancelled, one of those waiting runs the function anew. A cancellation is
  never shared: it concerns one caller only.
- `run_many` runs its function for the keys that no call is running for. It ends that call before it
  waits for the calls of others, so that calls with overlapping keys never wait for each other.
- `forget` separates calls: callers from then on do not join the present call, whose result still
  goes to those who already wait. When a call ends, it removes only its own entry.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Any, Generic, TypeVar, TypeVarTuple

import outcome
import trio

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Flight:
    """A running call; if it ends without a result, the task that ran it was cancelled."""

    __slots__ = ("landed", "result")

    def __init__(self, landed: trio.Event) -> None:
        self.landed = landed
        self.result: outcome.Outcome[Any] | None = None


class SingleFlight(Generic[K]):
    """Joins equal calls."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight] = {}

    async def run(self, key: K, afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Return `afn(*args)`, or the result of the running call for the same key.

        Raises: the exception of that call, in all callers.
        """
        while (flight := self._flights.get(key)) is not None:
            await flight.landed.wait()
            if flight.result is not None:
                result: T = _unwrap(flight.result)
                return result
        return await self._fly(key, afn, *args)

    async def run_many(
        self, keys: Collection[K], afn: Callable[[list[K]], Awaitable[Mapping[K, T]]]
    ) -> dict[K, T]:
        """Return results by key: of `afn` for distinct keys, or of the running calls for them.

        Raises: the exception of such a call, in all callers.
        """
        results: dict[K, T] = {}
        while missing := [key for key in keys if key not in results]:
            others = {key: self._flights[key] for key in missing if key in self._flights}
            own = [key for key in missing if key not in others]
            if own:
                results.update(await self._fly_many(own, afn))
            for key, flight in others.items():
                await flight.landed.wait()
                if flight.result is not None:
                    results[key] = _unwrap(flight.result)
        return results

    def forget(self, key: K) -> None:
        """Let the next caller start a new call, even if one for the key is running."""
        self._flights.pop(key, None)

    async def _fly(self, key: K, afn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        flight = self._flights[key] = _Flight(trio.Event())
        try:
            result = await afn(*args)
            flight.result = outcome.Value(result)
            return result
        except Exception as error:
            flight.result = outcome.Error(error)
            raise
        finally:
            self._land({key: flight})

    async def _fly_many(
        self, keys: list[K], afn: Callable[[list[K]], Awaitable[Mapping[K, T]]]
    ) -> Mapping[K, T]:
        landed = trio.Event()
        flights = {key: _Flight(landed) for key in keys}
        self._flights.update(flights)
        try:
            results = await afn(keys)
            for key, flight in flights.items():
                flight.result = outcome.Value(results[key])
            return results
        except Exception as error:
            for flight in flights.values():
                flight.result = outcome.Error(error)
            raise
        finally:
            self._land(flights)

    def _land(self, flights: Mapping[K, _Flight]) -> None:
        for key, flight in flights.items():
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set()


def _unwrap(result: outcome.Outcome[Any]) -> Any:
    # Outcome.unwrap works only once, but every waiting task needs the result.
    if isinstance(result, outcome.Error):
        raise result.error
    assert isinstance(result, outcome.Value)
    return result.value
