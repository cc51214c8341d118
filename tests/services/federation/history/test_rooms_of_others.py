"""Spaces, summaries and room directories of other servers, and policy servers."""

from typing import Any

import attrs
import orjson
import pytest

from hs.core.errors import Forbidden, MatrixError, NotFound, RemoteFault
from hs.core.events import event_types
from hs.core.events.hashes import essential_bytes
from hs.core.events.policy import KEY_ID
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID
from hs.core.signing.keys import SigningKey
from hs.core.versions import room_version
from hs.services.federation_client.peer_transport import PeerRequest
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.read.hierarchy import HierarchyRequest
from hs.settings.sections.federation import FederationSettings
from tests.services.federation.shared_rooms import build_remotely, join_through, receive
from tests.support.composition import SETTINGS
from tests.support.federation import FederatedServer, ScriptedPeer, open_servers
from tests.support.rooms import DEFAULT_VERSION, member

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BEA = UserID("@ann:far.example"), UserID("@bea:near.example")
V1 = "/_matrix/federation/v1"


async def create_space(server: FederatedServer, user_id: UserID, name: str) -> RoomID:
    """Create a public space."""
    create = Draft(event_types.CREATE, user_id, {"type": "m.space"}, "")
    join = Draft(event_types.MEMBER, user_id, {"membership": "join"}, user_id)
    levels = Draft(event_types.POWER_LEVELS, user_id, {"users": {user_id: 100}}, "")
    rules = Draft(event_types.JOIN_RULES, user_id, {"join_rule": "public"}, "")
    drafts = [create, join, levels, rules, Draft(event_types.NAME, user_id, {"name": name}, "")]
    return (await server.world.appender.create("11", drafts))[0].room_id


async def add_child(
    server: FederatedServer, space_id: RoomID, user_id: UserID, child_id: RoomID, **more: Any
) -> None:
    """Add a room of far to a space."""
    content = {"via": [FAR], **more}
    await server.world.set_state(space_id, user_id, event_types.SPACE_CHILD, content, child_id)


async def create_named(server: FederatedServer, name: str, join_rule: str = "public") -> RoomID:
    """Create a room of far with a name."""
    room_id = await server.world.create_room(ANN, join_rule=join_rule)
    await server.world.set_state(room_id, ANN, event_types.NAME, {"name": name})
    return room_id


async def names_below(server: FederatedServer, room_id: RoomID, **more: Any) -> list[str]:
    """Return the names of the rooms in a hierarchy, as Bea sees it."""
    hierarchy = server.process.services.reading.hierarchy
    page = await hierarchy.page(BEA, HierarchyRequest(room_id, **more))
    return [str(room["name"]) for room in page.rooms]


async def test_hierarchy_goes_on_at_other_servers() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        inner = await create_space(far, ANN, "inner")
        await add_child(far, inner, ANN, await create_named(far, "leaf"), order="a")
        await add_child(far, inner, ANN, await create_named(far, "secret", "invite"), order="b")
        await add_child(far, inner, ANN, await create_named(far, "tip"), order="c", suggested=True)
        outer = await create_space(near, BEA, "outer")
        await add_child(near, outer, BEA, inner, suggested=True)

        assert await names_below(near, outer) == ["outer", "inner", "leaf", "tip"]
        assert await names_below(near, outer, max_depth=1) == ["outer", "inner"]
        assert await names_below(near, outer, suggested_only=True) == ["outer", "inner", "tip"]
        requests = [uri for uri in near.network.uris(FAR) if "hierarchy" in uri]
        assert len(requests) == 2
        assert await names_below(near, inner) == ["inner", "leaf", "tip"]


async def test_hierarchy_names_inaccessible_children() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        space = await create_space(far, ANN, "space")
        leaf, secret = await create_named(far, "leaf"), await create_named(far, "no", "invite")
        invited = await create_named(far, "invited", "invite")
        await far.world.set_membership(invited, ANN, BEA, "invite")
        for child_id in (leaf, secret, invited, RoomID("!unknown:far.example")):
            await add_child(far, space, ANN, child_id)

        answer = await near.client.get(FAR, f"{V1}/hierarchy/{space}")
        with pytest.raises(RemoteFault, match="M_NOT_FOUND"):
            await near.client.get(FAR, f"{V1}/hierarchy/{secret}")

    assert answer["room"]["name"] == "space"
    assert len(answer["room"]["children_state"]) == 4
    assert sorted(child["name"] for child in answer["children"]) == ["invited", "leaf"]
    assert answer["inaccessible_children"] == [secret]


async def test_room_of_other_servers_is_summarized_for_users_who_may_see_it() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        club = await create_named(far, "club")
        open_room = await create_named(far, "open")
        allow = [{"type": "m.room_membership", "room_id": club}]
        for room_id in (restricted := await create_named(far, "members"),):
            rules = {"join_rule": "restricted", "allow": allow}
            await far.world.set_state(room_id, ANN, event_types.JOIN_RULES, rules)
        previews = near.process.services.reading.previews

        summary = await previews.find(BEA, open_room, [FAR])
        with pytest.raises(NotFound):
            await previews.find(BEA, restricted, [FAR])
        with pytest.raises(NotFound):
            await previews.find(None, open_room, [FAR])
        await join_through(far, near, club, BEA)
        near.world.clock.advance(3600_000)
        member_summary = await previews.find(BEA, restricted, [FAR])
        await far.process.services.aliases.aliases.add(
            ANN, RoomAlias("#open:far.example"), open_room
        )
        by_alias = await previews.find(BEA, RoomAlias("#open:far.example"))

    assert isinstance(summary, dict)
    assert (summary["name"], summary["num_joined_members"]) == ("open", 1)
    assert "children_state" not in summary
    assert isinstance(member_summary, dict)
    assert member_summary["name"] == "members"
    assert isinstance(by_alias, dict)
    assert by_alias["room_id"] == open_room


@pytest.mark.parametrize(
    "response",
    [
        (200, {}),
        (200, {"room": []}),
        (200, {"room": {"room_id": "!other:far.example", "num_joined_members": 1}}),
        (500, {}),
    ],
)
async def test_wrong_summaries_are_ignored(response: Any) -> None:
    async with open_servers(NEAR) as (near,):
        ScriptedPeer(FAR, near.network, {f"GET {V1}/hierarchy": response})
        hierarchy = near.process.services.reading.hierarchy

        with pytest.raises(NotFound):
            await near.process.services.reading.previews.find(
                BEA, RoomID("!room:far.example"), [FAR]
            )
        with pytest.raises(Forbidden):
            await hierarchy.page(BEA, HierarchyRequest(RoomID("!room:far.example")))


async def test_directory_of_another_server_is_listed() -> None:
    federation = FederationSettings(allow_public_rooms_over_federation=True)
    settings = attrs.evolve(SETTINGS, federation=federation)
    async with open_servers(NEAR, FAR, settings=settings) as (near, far):
        for name in ("tea", "coffee"):
            room_id = await create_named(far, name)
            await far.process.services.aliases.public_rooms.set_listed(room_id, True)
        web, token = near.web(), await near_token(near)
        path = "/_matrix/client/v3/publicRooms"

        page = await web.get(path, query={"server": FAR, "limit": 1}, token=token)
        since = page.json["next_batch"]
        rest = await web.get(path, query={"server": FAR, "since": since}, token=token)
        found = await web.post(
            f"{path}?server={FAR}", {"filter": {"generic_search_term": "tea"}}, token=token
        )
        anonymous = await web.get(path, query={"server": FAR})

    names = [room["name"] for answer in (page, rest) for room in answer.json["chunk"]]
    assert sorted(names) == ["coffee", "tea"]
    assert page.json["total_room_count_estimate"] == 2
    assert [room["name"] for room in found.json["chunk"]] == ["tea"]
    assert anonymous.status == 401


async def test_directory_is_not_published_by_default() -> None:
    async with open_servers(NEAR, FAR) as (near, _):
        with pytest.raises(RemoteFault, match="M_FORBIDDEN"):
            await near.client.get(FAR, f"{V1}/publicRooms")


async def near_token(server: FederatedServer) -> str:
    """Register Bea and return an access token."""
    body = {"username": "bea", "password": "a long secret", "auth": {"type": "m.login.dummy"}}
    answer = await server.web().post("/_matrix/client/v3/register", body)
    assert answer.status == 200, answer.json
    return str(answer.json["access_token"])


async def test_policy_server_signs_or_refuses_events() -> None:
    key = SigningKey.from_seed("policy_server", bytes(range(32)))

    def sign(request: PeerRequest) -> tuple[int, Any]:
        event = orjson.loads(request.body or b"")
        if event["content"].get("body") == "spam":
            return 400, {"errcode": "M_FORBIDDEN", "error": "Looks like spam"}
        signature = key.sign(essential_bytes(event, room_version(DEFAULT_VERSION)))
        return 200, {FAR: {KEY_ID: signature}}

    async with open_servers(NEAR) as (near,):
        peer = ScriptedPeer(FAR, near.network, {"POST /_matrix/policy/v1/sign": sign})
        room_id = await near.world.create_room(BEA)
        await receive(near, room_id, await build_remotely(near, peer, room_id, member(ANN, "join")))
        content = {"via": FAR, "public_keys": {"ed25519": key.verify_key.base64}}
        await near.world.set_state(room_id, BEA, event_types.POLICY, content)

        sent = await near.world.send(room_id, BEA, "hello")
        with pytest.raises(MatrixError, match="Looks like spam"):
            await near.world.send(room_id, BEA, "spam")
        stored = await near.world.events.get_one(sent.event_id)
        near.network.down.add(FAR)
        with pytest.raises(MatrixError, match="did not respond"):
            await near.world.send(room_id, BEA, "hello?")

    assert stored is not None
    assert KEY_ID in stored.event.pdu["signatures"][FAR]


async def test_this_server_is_no_policy_server() -> None:
    async with open_servers(NEAR, FAR) as (near, _):
        with pytest.raises(RemoteFault, match="M_UNRECOGNIZED"):
            await near.client.request(FAR, "POST", "/_matrix/policy/v1/sign", b"{}")
