"""Random writes through random processes, each read back through another one at once."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import attrs
import pytest

from hs.core.ids import RoomID
from hs.repl import freshness
from hs.storage.database import Database
from tests.support.composition import SERVER, SETTINGS, worker_settings
from tests.support.late_rows import LateNeighbourhood
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE
from tests.support.web import WebResponse

V3: Final = "/_matrix/client/v3"
PROCESSES: Final = ("main", "first", "second")
WRITERS: Final = {
    "events": ("first", "second"),
    "account_data": ("first",),
    "push_rules": ("second",),
    "receipts": ("second",),
}
SEED: Final = 20_261_130
WRITES: Final = 200
MANY_WRITES: Final = 2_000
NAMES: Final = ("a", "b", "c")


@pytest.fixture(autouse=True)
def without_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "MESSAGE_S", 0.0)


@attrs.define(eq=False)
class Scene:
    """Three processes, a room of Alice's, and what each read must return."""

    processes: list[Actions]
    room_id: RoomID
    rng: random.Random
    number: int = 0
    last_process: Actions | None = None
    tags: dict[str, Any] = attrs.Factory(dict)
    aliases: set[str] = attrs.Factory(set)
    rules: set[str] = attrs.Factory(set)
    event_ids: list[str] = attrs.Factory(list)
    marker: int = -1

    @property
    def room(self) -> str:
        """The path of the room."""
        return f"/rooms/{quote(self.room_id)}"

    def next(self) -> int:
        """Return a number that no write has used."""
        self.number += 1
        return self.number

    async def request(self, method: str, path: str, content: Any = None) -> WebResponse:
        """Send a request of Alice's to another process than the last one."""
        others = [each for each in self.processes if each is not self.last_process]
        self.last_process = self.rng.choice(others)
        client = self.last_process.client()
        return await client.request(method, f"{V3}{path}", json=content, token="alice")

    async def do(self, method: str, path: str, content: Any = None) -> Any:
        """Send a request that must succeed; return the body of the response."""
        answer = await self.request(method, path, content)
        assert answer.status == 200, (method, path, content, answer.body)
        return answer.json


async def change_topic(scene: Scene) -> None:
    path, content = f"{scene.room}/state/m.room.topic", {"topic": str(scene.next())}
    await scene.do("PUT", path, content)
    assert await scene.do("GET", path) == content


async def change_account_data(scene: Scene) -> None:
    scope = scene.rng.choice((f"/user/{quote(ALICE)}", f"/user/{quote(ALICE)}{scene.room}"))
    path, content = f"{scope}/account_data/m.test", {"n": scene.next()}
    await scene.do("PUT", path, content)
    assert await scene.do("GET", path) == content


async def change_tag(scene: Scene) -> None:
    name, path = scene.rng.choice(NAMES), f"/user/{quote(ALICE)}{scene.room}/tags"
    if name in scene.tags:
        await scene.do("DELETE", f"{path}/u.{name}")
        del scene.tags[name]
    else:
        scene.tags[name] = {"order": scene.rng.random()}
        await scene.do("PUT", f"{path}/u.{name}", scene.tags[name])
    assert await scene.do("GET", path) == {
        "tags": {f"u.{name}": content for name, content in scene.tags.items()}
    }


async def change_profile(scene: Scene) -> None:
    field = scene.rng.choice(("displayname", "org.example.field"))
    path, content = f"/profile/{quote(ALICE)}/{field}", {field: str(scene.next())}
    await scene.do("PUT", path, content)
    assert await scene.do("GET", path) == content


async def change_alias(scene: Scene) -> None:
    alias = f"#{scene.rng.choice(NAMES)}:{SERVER}"
    path = f"/directory/room/{quote(alias)}"
    if alias in scene.aliases:
        await scene.do("DELETE", path)
        scene.aliases.remove(alias)
    else:
        await scene.do("PUT", path, {"room_id": scene.room_id})
        scene.aliases.add(alias)
        await scene.do("PUT", f"{scene.room}/state/m.room.canonical_alias", {"alias": alias})
    assert {*(await scene.do("GET", f"{scene.room}/aliases"))["aliases"]} == scene.aliases
    assert (await scene.request("GET", path)).status == (200 if alias in scene.aliases else 404)


async def change_listing(scene: Scene) -> None:
    path, visibility = f"/directory/list/room/{quote(scene.room_id)}", ("public", "private")
    content = {"visibility": scene.rng.choice(visibility)}
    await scene.do("PUT", path, content)
    assert await scene.do("GET", path) == content


async def change_push_rule(scene: Scene) -> None:
    name = scene.rng.choice(NAMES)
    path = f"/pushrules/global/override/{name}"
    if name in scene.rules:
        await scene.do("DELETE", path)
        scene.rules.remove(name)
    else:
        await scene.do("PUT", path, {"actions": ["notify"], "conditions": []})
        scene.rules.add(name)
    rules = (await scene.do("GET", "/pushrules/global/"))["override"]
    assert {rule["rule_id"] for rule in rules if not rule["default"]} == scene.rules


async def store_filter(scene: Scene) -> None:
    path, content = f"/user/{quote(ALICE)}/filter", {"room": {"timeline": {"limit": scene.next()}}}
    filter_id = (await scene.do("POST", path, content))["filter_id"]
    assert await scene.do("GET", f"{path}/{filter_id}") == content


async def send_message(scene: Scene) -> None:
    path = f"{scene.room}/send/m.test/{scene.next()}"
    event_id = (await scene.do("PUT", path, {"n": 1}))["event_id"]
    assert (await scene.do("PUT", path, {"n": 1}))["event_id"] == event_id
    page = await scene.do("GET", f"{scene.room}/messages?dir=b&limit=1")
    assert [event["event_id"] for event in page["chunk"]] == [event_id]
    scene.event_ids.append(event_id)


async def send_reaction_twice(scene: Scene) -> None:
    await send_message(scene)
    relates_to = {"rel_type": "m.annotation", "event_id": scene.event_ids[-1], "key": "x"}
    path = f"{scene.room}/send/m.reaction"
    await scene.do("PUT", f"{path}/{scene.next()}", {"m.relates_to": relates_to})
    again = await scene.request("PUT", f"{path}/{scene.next()}", {"m.relates_to": relates_to})
    assert again.errcode == "M_DUPLICATE_ANNOTATION"


async def redact_message(scene: Scene) -> None:
    await send_message(scene)
    event_id = quote(scene.event_ids[-1])
    await scene.do("PUT", f"{scene.room}/redact/{event_id}/{scene.next()}", {})
    assert (await scene.do("GET", f"{scene.room}/event/{event_id}"))["content"] == {}


async def move_marker(scene: Scene) -> None:
    await send_message(scene)
    index = scene.rng.randrange(len(scene.event_ids))
    scene.marker = max(scene.marker, index)
    await scene.do("POST", f"{scene.room}/read_markers", {"m.fully_read": scene.event_ids[index]})
    path = f"/user/{quote(ALICE)}{scene.room}/account_data/m.fully_read"
    assert await scene.do("GET", path) == {"event_id": scene.event_ids[scene.marker]}


async def change_power_levels(scene: Scene) -> None:
    # The first may only happen if the second process knows the levels that the last one set.
    path = f"{scene.room}/state/m.room.power_levels"
    levels = {"users": {ALICE: 100}, "events": {"m.room.topic": scene.rng.choice((50, 100))}}
    await scene.do("PUT", path, levels)
    await change_topic(scene)
    assert await scene.do("GET", path) == levels


ACTIONS: Final[list[Callable[[Scene], Awaitable[None]]]] = [
    change_topic,
    change_account_data,
    change_tag,
    change_profile,
    change_alias,
    change_listing,
    change_push_rule,
    store_filter,
    send_message,
    send_reaction_twice,
    redact_message,
    move_marker,
    change_power_levels,
]


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    late = LateNeighbourhood()
    async with AsyncExitStack() as stack:
        processes: list[Actions] = []
        for name in PROCESSES:
            settings = worker_settings(SETTINGS, name, *PROCESSES, **WRITERS)
            opened = open_actions(database, settings, neighbours=late)
            processes.append(await stack.enter_async_context(opened))
        room_id = await processes[0].world.create_room(ALICE)
        yield Scene(processes, room_id, random.Random(SEED))


async def check_random_writes(database: Database, writes: int) -> None:
    async with open_scene(database) as scene:
        for _ in range(writes):
            await scene.rng.choice(ACTIONS)(scene)


async def test_random_writes_are_read_back_through_other_processes(database: Database) -> None:
    await check_random_writes(database, WRITES)


@pytest.mark.long
async def test_many_random_writes_are_read_back_through_other_processes(
    database: Database,
) -> None:
    await check_random_writes(database, MANY_WRITES)
