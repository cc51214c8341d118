"""Sharded services: each call goes to the owner of its first argument."""

from typing import Protocol

import attrs

from hs.repl.rpc import rpc
from hs.repl.sharding import sharded_proxy


class Notes(Protocol):
    @rpc
    async def add(self, room_id: str, text: str, times: int = 1) -> str: ...


@attrs.frozen
class NotesOf:
    process: str

    async def add(self, room_id: str, text: str, times: int = 1) -> str:
        return f"{self.process} {room_id} {text * times}"


OWNERS = {"!a:x": "one", "!b:x": "two"}


async def test_calls_go_to_the_owner_of_the_first_argument() -> None:
    services: dict[str, Notes] = {name: NotesOf(name) for name in ("one", "two")}

    notes = sharded_proxy(Notes, services, OWNERS.__getitem__)

    assert await notes.add("!a:x", "hi") == "one !a:x hi"
    assert await notes.add("!b:x", "hi", times=2) == "two !b:x hihi"


async def test_only_owner_is_called_without_a_proxy() -> None:
    only: Notes = NotesOf("one")

    assert sharded_proxy(Notes, {"one": only}, OWNERS.__getitem__) is only
