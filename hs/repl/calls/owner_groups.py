"""Calls about many keys of a sharded stream: one call to each owner of any of them.

`sharded` of the process base passes a call on by its first argument. A call with a list of users or
rooms is split here instead: each owner gets its part, at the same time as the others. An owner that
fails does not keep the others from doing theirs, and the call fails after all have ended.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import trio

T = TypeVar("T")
V = TypeVar("V")

OwnerOf = Callable[[str], str]


def by_owner(
    items: Iterable[T], key_of: Callable[[T], str], owner_of: OwnerOf
) -> dict[str, list[T]]:
    """Return the items by the owners of their keys, in their order."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(owner_of(key_of(item)), []).append(item)
    return groups


async def call_owners(
    parts: Mapping[str, T], call: Callable[[str, T], Awaitable[V]]
) -> dict[str, V]:
    """Make a call to each owner with its part, and return the results by owner.

    Raises: what the first call that failed raised, after all calls have ended.
    """
    if len(parts) == 1:
        ((owner, part),) = parts.items()
        return {owner: await call(owner, part)}
    results: dict[str, V] = {}
    errors: list[Exception] = []

    async def call_one(owner: str, part: T) -> None:
        try:
            results[owner] = await call(owner, part)
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for owner, part in parts.items():
            nursery.start_soon(call_one, owner, part)
    if errors:
        raise errors[0]
    return results
