"""Requests that depend on what another process committed, of which this process has no rows yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import attrs
import pytest

from hs.core.ids import RoomID, UserID
from hs.repl import freshness
from hs.storage.database import Database
from tests.support.composition import SERVER, SETTINGS, worker_settings
from tests.support.late_rows import LateNeighbourhood
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB
from tests.support.web import WebResponse

V3: Final = "/_matrix/client/v3"
GUEST: Final = UserID(f"@guest:{SERVER}")


@pytest.fixture(autouse=True)
def without_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "MESSAGE_S", 0.0)


@attrs.frozen(eq=False)
class Scene:
    """A process that writes everything, and another one, which learns of it when it must."""

    writer: Actions
    reader: Actions

    async def write(self, method: str, path: str, content: Any, token: str) -> Any:
        """Change something through the writing process; return the response."""
        answer = await self.writer.client().request(
            method, f"{V3}{path}", json=content, token=token
        )
        assert answer.status == 200, answer.body
        return answer.json

    async def request(
        self, method: str, path: str, content: Any = None, token: str = "bob"
    ) -> WebResponse:
        """Send a request to the other process."""
        return await self.reader.client().request(method, f"{V3}{path}", json=content, token=token)

    async def remember(self, room_id: RoomID) -> None:
        """Have the other process read what it may remember of the room."""
        await self.reader.world.states.current(room_id)
        await self.reader.memberships.present(room_id)
        for user_id in (ALICE, BOB):
            await self.reader.memberships.rooms_of(user_id)


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    late = LateNeighbourhood()
    main, other = (
        worker_settings(SETTINGS, *names) for names in (("main", "other"), ("other", "main"))
    )
    async with (
        open_actions(database, main, neighbours=late) as writer,
        open_actions(database, other, neighbours=late) as reader,
    ):
        for actions in (writer, reader):
            actions.user(GUEST, is_guest=True)
        yield Scene(writer, reader)


def in_room(room_id: RoomID, path: str) -> str:
    return f"/rooms/{quote(room_id)}/{path}"


async def test_presence_set_through_another_process_is_read(database: Database) -> None:
    async with open_scene(database) as scene:
        status = f"/presence/{quote(ALICE)}/status"
        before = await scene.request("GET", status, token="alice")
        presence = {"presence": "unavailable", "status_msg": "at lunch"}
        await scene.write("PUT", status, presence, "alice")

        answer = await scene.request("GET", status, token="alice")

        assert before.json == {"presence": "offline"}
        assert answer.json == {**presence, "last_active_ago": 0}


async def test_new_member_adds_alias_through_another_process(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE)
        await scene.remember(room_id)
        await scene.write("POST", in_room(room_id, "join"), {}, "bob")

        alias = f"/directory/room/{quote(f'#new:{SERVER}')}"
        answer = await scene.request("PUT", alias, {"room_id": room_id})

        assert answer.status == 200, answer.body


async def test_former_member_adds_no_alias_through_another_process(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE, join=[BOB])
        await scene.remember(room_id)
        await scene.write("POST", in_room(room_id, "leave"), {}, "bob")

        alias = f"/directory/room/{quote(f'#new:{SERVER}')}"
        answer = await scene.request("PUT", alias, {"room_id": room_id})

        assert answer.status == 403, answer.body


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PUT", "/directory/list/room/{room}", {"visibility": "public"}),
        ("POST", "/rooms/{room}/upgrade", {"new_version": "11"}),
    ],
)
async def test_promoted_user_acts_through_another_process(
    database: Database, method: str, path: str, content: dict[str, Any]
) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE, join=[BOB])
        await scene.remember(room_id)
        levels = {"users": {ALICE: 100, BOB: 100}}
        await scene.write("PUT", in_room(room_id, "state/m.room.power_levels"), levels, "alice")

        answer = await scene.request(method, path.format(room=quote(room_id)), content)

        assert answer.status == 200, answer.body


async def test_blocked_invites_are_refused_through_another_process(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE)
        await scene.remember(room_id)
        await scene.reader.account_data(BOB, None, "m.invite_permission_config")
        entry = f"/user/{quote(BOB)}/account_data/m.invite_permission_config"
        await scene.write("PUT", entry, {"default_action": "block"}, "bob")

        answer = await scene.request(
            "POST", in_room(room_id, "invite"), {"user_id": BOB}, token="alice"
        )

        assert answer.status == 403, answer.body


@pytest.mark.parametrize("access", ["can_join", "forbidden"])
async def test_guest_access_changed_through_another_process_counts(
    database: Database, access: str
) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE)
        before = {"can_join": "forbidden", "forbidden": "can_join"}[access]
        path = in_room(room_id, "state/m.room.guest_access")
        await scene.write("PUT", path, {"guest_access": before}, "alice")
        await scene.remember(room_id)
        await scene.write("PUT", path, {"guest_access": access}, "alice")

        answer = await scene.request("POST", in_room(room_id, "join"), {}, token="guest")

        assert answer.status == (200 if access == "can_join" else 403), answer.body


async def test_restricted_join_after_changes_through_another_process(database: Database) -> None:
    async with open_scene(database) as scene:
        space_id = await scene.writer.world.create_room(ALICE)
        room_id = await scene.writer.world.create_room(ALICE, join_rule="invite")
        await scene.remember(space_id)
        await scene.remember(room_id)
        rules = {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space_id}],
        }
        await scene.write("PUT", in_room(room_id, "state/m.room.join_rules"), rules, "alice")
        await scene.write("POST", in_room(space_id, "join"), {}, "bob")

        answer = await scene.request("POST", in_room(room_id, "join"), {})

        assert answer.status == 200, answer.body


async def test_knock_after_join_rule_changed_through_another_process(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE, join_rule="invite")
        await scene.remember(room_id)
        path = in_room(room_id, "state/m.room.join_rules")
        await scene.write("PUT", path, {"join_rule": "knock"}, "alice")

        answer = await scene.request("POST", f"/knock/{quote(room_id)}", {})

        assert answer.status == 200, answer.body


async def test_fully_read_marker_never_moves_back(database: Database) -> None:
    async with open_scene(database) as scene:
        world = scene.writer.world
        room_id = await world.create_room(ALICE)
        first, second = [(await world.send(room_id, ALICE)).event_id for _ in range(2)]
        await scene.reader.account_data(ALICE, room_id, "m.fully_read")
        markers = in_room(room_id, "read_markers")
        await scene.write("POST", markers, {"m.fully_read": second}, "alice")

        answer = await scene.request("POST", markers, {"m.fully_read": first}, token="alice")

        assert answer.status == 200, answer.body
        data = scene.writer.services.core.accounts.account_data
        assert await data.stored(ALICE, room_id, "m.fully_read") == (
            b'{"event_id":"%s"}' % second.encode()
        )


async def test_room_forgotten_through_another_process_is_not_read(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE, join=[BOB])
        await scene.writer.world.leave(room_id, BOB)
        await scene.request("GET", in_room(room_id, "messages?dir=b"))
        await scene.remember(room_id)
        await scene.write("POST", in_room(room_id, "forget"), {}, "bob")

        answer = await scene.request("GET", in_room(room_id, "messages?dir=b"))

        assert answer.status == 403, answer.body


async def test_deactivated_user_leaves_room_joined_through_another_process(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE)
        await scene.remember(room_id)
        await scene.write("POST", in_room(room_id, "join"), {}, "bob")

        await scene.reader.services.core.rooms.departures.leave_all(BOB)

        member = await scene.writer.state(room_id, "m.room.member", BOB)
        assert member["membership"] == "leave"


async def test_hierarchy_shows_room_joined_through_another_process(database: Database) -> None:
    async with open_scene(database) as scene:
        room_id = await scene.writer.world.create_room(ALICE, invite=[BOB], join_rule="invite")
        await scene.writer.world.leave(room_id, BOB)
        await scene.remember(room_id)
        invite = {"user_id": BOB}
        await scene.write("POST", in_room(room_id, "invite"), invite, "alice")
        await scene.write("POST", in_room(room_id, "join"), {}, "bob")

        answer = await scene.reader.client().get(
            f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy", token="bob"
        )

        assert answer.status == 200, answer.body
