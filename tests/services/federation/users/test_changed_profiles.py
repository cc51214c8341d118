"""Cached profiles of users of other servers, and member events that show other names."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio

from hs.services.federation_client.peer_transport import PeerRequest
from hs.storage.database import Database
from tests.services.federation.sending import receive, wait_until
from tests.services.federation.users.remote_lists import (
    FAR,
    USER,
    DevicePeer,
    Near,
    open_near,
    share_room,
)
from tests.support.composition import SETTINGS, worker_settings
from tests.support.federation import PeerNetwork, open_servers
from tests.support.late_rows import LateNeighbourhood

PATH = f"/_matrix/client/v3/profile/{USER}"
QUERY = "GET /_matrix/federation/v1/query/profile"


@attrs.define(eq=False)
class Profile:
    """The profile of the user of the scripted server."""

    far: DevicePeer
    name: str = "Ben"

    def __attrs_post_init__(self) -> None:
        self.far.peer.responses[QUERY] = self._answer

    @property
    def queries(self) -> int:
        """How often the server was asked for it."""
        return self.far.count(QUERY)

    async def show(self, near: Near, membership: str = "join", **content: Any) -> None:
        """Let the server under test receive a member event."""
        content = {"membership": membership, **content}
        await receive(near.server, self.far.room.add(USER, "m.room.member", content, USER))

    def _answer(self, _: PeerRequest) -> tuple[int, Any]:
        return 200, {"displayname": self.name, "com.example.pet": "cat"}


async def shown(near: Near) -> set[str]:
    """Return the names that a client is shown."""
    answers = [await near.server.web().get(PATH + suffix) for suffix in ("", "/displayname")]
    return {answer.json["displayname"] for answer in answers}


@pytest.fixture
async def near() -> AsyncIterator[Near]:
    async with open_servers("near.example") as (server,):
        yield Near(server)


async def test_profile_is_requested_again_after_a_new_name_in_a_room(near: Near) -> None:
    profile = Profile(await share_room(near))
    assert await shown(near) == {"Ben"}

    profile.name = "Benjamin"
    await profile.show(near, displayname="Benjamin")

    assert await shown(near) == {"Benjamin"}
    assert profile.queries == 4


async def test_profile_of_a_redacted_or_nameless_member_event_is_requested_again(
    near: Near,
) -> None:
    profile = Profile(await share_room(near))
    assert await shown(near) == {"Ben"}

    profile.name = "Nobody"
    await profile.show(near)

    assert await shown(near) == {"Nobody"}


async def test_other_member_events_leave_the_profile_in_the_cache(near: Near) -> None:
    profile = Profile(await share_room(near))
    pet = await near.server.web().get(f"{PATH}/com.example.pet")
    assert await shown(near) == {"Ben"}

    await profile.show(near, displayname="Ben", reason="the same name")
    await profile.show(near, "leave")

    assert await shown(near) == {"Ben"}
    await profile.show(near, displayname="Benjamin")
    assert await near.server.web().get(f"{PATH}/com.example.pet") == pet
    assert profile.queries == 3


async def test_flood_of_names_asks_for_a_profile_once_for_each_request(near: Near) -> None:
    profile = Profile(await share_room(near))
    assert await shown(near) == {"Ben"}

    for number in range(20):
        await profile.show(near, displayname=f"Ben {number}")

    assert await shown(near) == {"Ben"}
    assert profile.queries == 4


async def test_answer_from_before_a_new_name_is_not_cached(near: Near) -> None:
    profile = Profile(await share_room(near))
    answer, waiting = near.server.network.answers[FAR], trio.Event()

    async def answer_late(request: PeerRequest) -> Any:
        response = await answer(request)
        await waiting.wait()
        return response

    near.server.network.answers[FAR] = answer_late
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown, near)
        await wait_until(lambda: profile.queries == 1)
        profile.name = "Benjamin"
        await profile.show(near, displayname="Benjamin")
        waiting.set()

    assert await shown(near) == {"Benjamin"}


async def test_any_process_shows_a_name_that_another_process_has_received(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.repl.freshness.MESSAGE_S", 0)
    network, neighbours = PeerNetwork(), LateNeighbourhood()
    names = ("main", "reader")
    main, follower = (worker_settings(SETTINGS, *order) for order in (names, names[::-1]))
    async with (
        open_near(network, database, main, neighbours) as owner,
        open_near(network, database, follower, neighbours) as reader,
    ):
        profile = Profile(await share_room(owner))
        for process in (owner, reader):
            assert await shown(process) == {"Ben"}

        for name in ("Benjamin", "Benny"):
            profile.name = name
            await profile.show(owner, displayname=name)

            for process in (reader, owner):
                assert await shown(process) == {name}
        assert profile.queries == 2 * 2 * 3
