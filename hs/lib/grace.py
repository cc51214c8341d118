"""A grace period for work that a cancellation must not interrupt at once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")


async def with_grace(grace_s: float, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`; after a cancellation, give it `grace_s` more seconds to finish.

    If it finishes in time, its result is returned, and the cancellation takes effect at the
    caller's next checkpoint. Otherwise the work is cancelled.
    """
    result: outcome.Outcome[T] | None = None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as shield:
            nursery.start_soon(_limit_when_cancelled, shield, grace_s)
            try:
                result = outcome.Value(await work())
            except Exception as error:  # noqa: BLE001  raised below, outside of the nursery's group
                result = outcome.Error(error)
            nursery.cancel_scope.cancel()
        if result is None:
            # The grace period is over, and the shield with it: this raises Cancelled.
            await trio.sleep_forever()
    assert result is not None
    return result.unwrap()


async def _limit_when_cancelled(shield: trio.CancelScope, grace_s: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        shield.deadline = trio.current_time() + grace_s


@asynccontextmanager
async def calling_when_cancelled(call: Callable[[], object]) -> AsyncIterator[None]:
    """Make `call` as soon as the context is cancelled, though its code may be shielded.

    It is called at the end of the context as well. Exceptions of the context come in a group.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_call_when_cancelled, call)
        yield
        nursery.cancel_scope.cancel()


async def _call_when_cancelled(call: Callable[[], object]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        call()
