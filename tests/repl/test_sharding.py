"""Sharded services: each call goes to the owner of its first argument, also when that changes."""

from typing import Protocol

import attrs
import pytest
import trio

from hs.core.errors import NotOwner
from hs.repl.calls.reply import CallNotBegun, RpcUnavailable
from hs.repl.rpc import rpc
from hs.repl.sharding import OwnerCalls, OwnerChanging, guarded, sharded_proxy
from hs.repl.slots.assignment import SLOTS, slot_of
from hs.repl.slots.table import SlotTable

ROOM = "!a:x"
SLOT = slot_of(ROOM)


class Notes(Protocol):
    @rpc
    async def add(self, room_id: str, text: str, times: int = 1) -> str: ...


@attrs.frozen
class NotesOf:
    process: str

    async def add(self, room_id: str, text: str, times: int = 1) -> str:
        return f"{self.process} {room_id} {text * times}"


@attrs.define(eq=False)
class Scene:
    """Two processes, each with its knowledge of the slots; calls come from the first one."""

    tables: dict[str, SlotTable]
    services: dict[str, Notes]
    refreshes: int = 0

    @property
    def proxy(self) -> Notes:
        """The proxy in the first process."""
        owners = OwnerCalls("events", self.tables["p1"], self.refresh)
        return sharded_proxy(Notes, self.services.__getitem__, owners)

    async def refresh(self) -> None:
        """Count how often the table was read again."""
        self.refreshes += 1

    async def add_at(self, process: str) -> str:
        """Call a process."""
        return await self.services[process].add(ROOM, "hi")

    def give(self, holder: str, epoch: int) -> None:
        """Let a process hold the slot of the room, and only this process know."""
        self.tables[holder].note("events", SLOT, holder, epoch)
        self.tables[holder].hold("events", [SLOT])


def make_scene() -> Scene:
    tables = {name: SlotTable(name, {"events": ("p1", "p2")}) for name in ("p1", "p2")}

    async def never() -> None:
        raise AssertionError("a guard does not read the table")

    services = {
        name: guarded(Notes, NotesOf(name), OwnerCalls("events", table, never))
        for name, table in tables.items()
    }
    return Scene(tables, services)


async def test_calls_go_to_the_holder_of_the_slot_of_the_first_argument() -> None:
    scene = make_scene()
    scene.give("p2", 1)
    scene.tables["p1"].note("events", SLOT, "p2", 1)

    assert await scene.proxy.add(ROOM, "hi", times=2) == "p2 !a:x hihi"


async def test_call_that_reached_a_former_holder_goes_on_to_the_present_one() -> None:
    scene = make_scene()
    scene.give("p2", 1)
    scene.give("p1", 2)
    scene.tables["p2"].note("events", SLOT, "p1", 2)
    scene.tables["p1"].note("events", SLOT, "p2", 1)
    stale = SlotTable("sync", {"events": ("p1", "p2")})
    stale.note("events", SLOT, "p2", 1)
    owners = OwnerCalls("events", stale, scene.refresh)

    assert await owners.call(lambda: owners.owner(ROOM), scene.add_at) == "p1 !a:x hi"
    assert scene.refreshes == 0


async def test_call_waits_until_the_new_holder_takes_calls(autojump_clock: object) -> None:
    scene = make_scene()
    scene.tables["p1"].note("events", SLOT, "p2", 2)

    async def take() -> None:
        await trio.sleep(3)
        scene.give("p2", 2)
        scene.tables["p2"].hold("events", [SLOT])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        assert await scene.proxy.add(ROOM, "hi") == "p2 !a:x hi"
    assert scene.refreshes > 0


async def test_call_that_nobody_takes_fails_in_time(autojump_clock: object) -> None:
    scene = make_scene()
    began = trio.current_time()

    with pytest.raises(OwnerChanging) as raised:
        await scene.proxy.add(ROOM, "hi")

    assert raised.value.status == 503
    assert raised.value.extra["retry_after_ms"] > 0
    assert trio.current_time() - began < 10


async def test_call_of_a_process_that_cannot_be_reached_is_not_repeated() -> None:
    scene = make_scene()
    calls: list[str] = []

    async def call(owner: str) -> None:
        calls.append(owner)
        raise RpcUnavailable(owner, "it does not run")

    async def refresh() -> None:
        calls.append("refresh")

    with pytest.raises(RpcUnavailable):
        await OwnerCalls("events", scene.tables["p1"], refresh).call(lambda: "p2", call)

    assert calls == ["p2", "refresh"]


async def test_call_that_was_not_begun_goes_on_to_the_new_owner_at_once() -> None:
    scene = make_scene()
    table = scene.tables["p1"]
    table.note("events", SLOT, "p2", 1)
    owners = OwnerCalls("events", table, scene.refresh)

    async def call(owner: str) -> str:
        if owner == "p2":
            table.note("events", SLOT, "p1", 2)
            raise CallNotBegun
        return owner

    assert await owners.call(lambda: owners.owner(ROOM), call) == "p1"
    assert await owners.call_all([ROOM], str, lambda owner, _: call(owner)) == ["p1"]
    assert scene.refreshes == 0


async def test_call_that_was_not_begun_is_repeated_when_its_owner_is_back(
    autojump_clock: object,
) -> None:
    scene, calls = make_scene(), list[str]()

    async def call(owner: str) -> str:
        calls.append(owner)
        if len(calls) == 1:
            await trio.sleep(20)
            raise CallNotBegun
        return owner

    owners = OwnerCalls("events", scene.tables["p1"], scene.refresh)

    assert await owners.call(lambda: "p2", call) == "p2"
    assert calls == ["p2", "p2"]


async def test_new_owner_may_refuse_a_call_for_a_while_that_the_one_before_has_not_begun(
    autojump_clock: object,
) -> None:
    scene = make_scene()
    table, began = scene.tables["p1"], trio.current_time()
    table.note("events", SLOT, "p2", 1)

    async def call(owner: str) -> str:
        await trio.sleep(0.01)
        if owner == "p2":
            if trio.current_time() - began > 12:
                table.note("events", SLOT, "p1", 2)
            raise CallNotBegun
        if trio.current_time() - began < 15:
            raise NotOwner("events", SLOT, "p1", 2)
        return owner

    owners = OwnerCalls("events", table, scene.refresh)

    assert await owners.call(lambda: owners.owner(ROOM), call) == "p1"


async def test_call_that_nobody_begins_fails_in_time(autojump_clock: object) -> None:
    scene = make_scene()
    began = trio.current_time()

    async def call(owner: str) -> None:
        raise CallNotBegun

    with pytest.raises(OwnerChanging):
        await OwnerCalls("events", scene.tables["p1"], scene.refresh).call(lambda: "p2", call)

    assert 8 < trio.current_time() - began < 40


ROOMS = [f"!room{number}:x" for number in range(40)]


async def test_calls_about_many_keys_go_to_their_owners_again_if_these_have_changed() -> None:
    scene = make_scene()
    for room_id in ROOMS:
        scene.tables["p1"].note("events", slot_of(room_id), "p1", 2)
        scene.tables["p1"].hold("events", [slot_of(room_id)])
        scene.tables["p2"].note("events", slot_of(room_id), "p1", 2)
    stale = SlotTable("sync", {"events": ("p1", "p2")})
    asked: list[str] = []

    async def call(owner: str, rooms: list[str]) -> list[str]:
        asked.append(owner)
        with scene.tables[owner].calling("events", rooms):
            return rooms

    owners = OwnerCalls("events", stale, scene.refresh)
    results = await owners.call_all(ROOMS, str, call)

    assert sorted(room_id for rooms in results for room_id in rooms) == sorted(ROOMS)
    assert set(asked[:2]) == {"p1", "p2"}
    assert set(asked[2:]) <= {"p1", "p2"}
    assert scene.refreshes == 0


async def test_call_about_many_keys_fails_if_an_owner_fails(autojump_clock: object) -> None:
    scene = make_scene()
    done: list[str] = []

    async def call(owner: str, rooms: list[str]) -> None:
        if owner == "p2":
            raise RpcUnavailable(owner, "it does not run")
        await trio.sleep(1)
        done.append(owner)

    with pytest.raises(RpcUnavailable):
        await OwnerCalls("events", scene.tables["p1"], scene.refresh).call_all(ROOMS, str, call)

    assert done == ["p1"]
    assert scene.refreshes == 1


async def test_refusal_names_no_process_to_clients() -> None:
    refusal = NotOwner("events", 3, "persister1", 9)

    assert set(refusal.body()) == {"errcode", "error", "retry_after_ms"}
    assert 0 <= refusal.extra["slot"] < SLOTS
