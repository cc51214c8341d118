"""Calls about keys of several owners: all parts are done, and a failure is reported afterwards."""

import pytest
import trio.testing

from hs.core.errors import Unavailable
from hs.repl.calls.owner_groups import by_owner, call_owners


def test_items_are_grouped_by_owner_in_their_order() -> None:
    groups = by_owner(["a1", "b1", "a2"], lambda item: item[:1], lambda key: f"owner of {key}")

    assert groups == {"owner of a": ["a1", "a2"], "owner of b": ["b1"]}


async def test_results_are_returned_by_owner() -> None:
    async def call(owner: str, part: int) -> str:
        return f"{owner}{part}"

    assert await call_owners({"one": 1, "two": 2}, call) == {"one": "one1", "two": "two2"}
    assert await call_owners({"one": 1}, call) == {"one": "one1"}
    assert await call_owners({}, call) == {}


async def test_failing_owner_does_not_keep_the_others_from_their_parts() -> None:
    done: list[str] = []

    async def call(owner: str, _: None) -> None:
        if owner == "failing":
            raise Unavailable("gone")
        await trio.testing.wait_all_tasks_blocked()
        done.append(owner)

    with pytest.raises(Unavailable, match="gone"):
        await call_owners(dict.fromkeys(["failing", "one", "two"]), call)

    assert sorted(done) == ["one", "two"]
