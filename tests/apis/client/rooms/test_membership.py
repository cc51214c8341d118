"""Join, leave, invite, kick, ban, knock and forget over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio

from hs.core.ids import RoomID, ServerName
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import sign_json
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.rate_limits import InviteRates, JoinRates, Rate
from hs.storage.database import Database
from tests.support.composition import NO_LIMITS, PLENTY, SERVER, SETTINGS
from tests.support.room_actions import DAVE, Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, ZOE
from tests.support.web import WebResponse

V3 = "/_matrix/client/v3"
TEXT = {"msgtype": "m.text", "body": "x"}


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as actions:
        yield actions


async def change_membership(
    actions: Actions, room_id: str, action: str, token: str, **body: Any
) -> WebResponse:
    return await actions.client().post(f"{V3}/rooms/{room_id}/{action}", body, token=token)


async def membership(actions: Actions, room_id: RoomID, user_id: str) -> Any:
    return (await actions.state(room_id, "m.room.member", user_id)).get("membership")


def outcome(response: WebResponse) -> tuple[int, str | None]:
    return response.status, response.json.get("errcode")


async def test_second_join_sends_no_event(actions: Actions) -> None:
    await actions.set_profile(BOB, displayname="Bob")
    room_id = await actions.world.create_room(ALICE)

    first = await change_membership(actions, room_id, "join", "bob", reason="hello")
    seen = len(actions.world.seen)
    repeated = await change_membership(actions, room_id, "join", "bob")

    assert first.json == repeated.json == {"room_id": room_id}
    assert len(actions.world.seen) == seen
    content = await actions.state(room_id, "m.room.member", BOB)
    assert content == {"membership": "join", "displayname": "Bob", "reason": "hello"}


async def test_extra_keys_of_a_join_are_in_the_member_event(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)

    response = await change_membership(actions, room_id, "join", "bob", foo="bar", membership="ban")
    invalid = await change_membership(actions, room_id, "join", "carol", foo=1.5)

    assert response.status == 200
    content = await actions.state(room_id, "m.room.member", BOB)
    assert content == {"membership": "join", "foo": "bar"}
    assert outcome(invalid) == (400, "M_BAD_JSON")


async def test_users_join_concurrently(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    responses: list[WebResponse] = []

    async def join(token: str) -> None:
        responses.append(await change_membership(actions, room_id, "join", token))

    async with trio.open_nursery() as nursery:
        for token in ("bob", "carol", "dave", "bob"):
            nursery.start_soon(join, token)

    assert [response.status for response in responses] == [200] * 4
    present = await actions.memberships.present(room_id)
    assert set(present.joined) == {ALICE, BOB, CAROL, DAVE}
    joins = [row for _, row in actions.world.seen if row.sender == BOB]
    assert len(joins) == 1


async def test_room_is_joined_by_alias(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    await actions.aliases.add(ALICE, actions.aliases.local_alias("here"), room_id)
    client = actions.client()

    joined = await client.post(
        f"{V3}/join/%23here:{SERVER}?via=a.example&server_name=b.example", {}, token="bob"
    )
    unknown_alias = await client.post(f"{V3}/join/%23gone:{SERVER}", {}, token="bob")
    invalid_alias = await client.post(f"{V3}/join/@bob:{SERVER}", {}, token="bob")
    no_server = await client.post(f"{V3}/join/{room_id}?via=%20", {}, token="bob")

    assert joined.json == {"room_id": room_id}
    assert outcome(unknown_alias) == (404, "M_NOT_FOUND")
    assert outcome(invalid_alias) == (400, "M_INVALID_PARAM")
    assert outcome(no_server) == (400, "M_INVALID_PARAM")


async def test_room_of_unreachable_server_cannot_be_joined(actions: Actions) -> None:
    responses = [
        await change_membership(actions, "!far:elsewhere.example", action, "bob")
        for action in ("join", "leave")
    ]
    knock = await actions.client().post(f"{V3}/knock/!far:elsewhere.example", {}, token="bob")

    assert [outcome(response) for response in (*responses, knock)] == [
        (502, "M_UNKNOWN"),
        (404, "M_NOT_FOUND"),
        (502, "M_UNKNOWN"),
    ]


async def test_invite_is_sent_once_and_can_be_rejected(actions: Actions) -> None:
    await actions.set_profile(BOB, displayname="Bob", avatar_url="mxc://a/b")
    room_id = await actions.world.create_room(ALICE, join_rule="invite")

    invited = await change_membership(
        actions, room_id, "invite", "alice", user_id=BOB, reason="come"
    )
    repeated = await change_membership(
        actions, room_id, "invite", "alice", user_id=BOB, reason="come"
    )
    content = await actions.state(room_id, "m.room.member", BOB)
    rejected = await change_membership(actions, room_id, "leave", "bob", reason="no")
    refused = await change_membership(actions, room_id, "join", "bob")

    assert invited.json == repeated.json == rejected.json == {}
    assert content == {
        "membership": "invite",
        "displayname": "Bob",
        "avatar_url": "mxc://a/b",
        "reason": "come",
    }
    assert outcome(refused) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("token", "body", "expected"),
    [
        ("alice", {"user_id": ALICE}, (403, "M_FORBIDDEN")),
        ("carol", {"user_id": BOB}, (403, "M_FORBIDDEN")),
        ("alice", {"user_id": "bob"}, (400, "M_INVALID_PARAM")),
        ("alice", {}, (400, "M_MISSING_PARAM")),
        ("alice", {"user_id": 5}, (400, "M_BAD_JSON")),
        ("alice", {"user_id": ZOE}, (502, "M_UNKNOWN")),
        ("alice", {"medium": "email", "address": "a@b.c"}, (400, "M_MISSING_PARAM")),
    ],
)
async def test_invalid_invite_is_rejected(
    actions: Actions, token: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    room_id = await actions.world.create_room(ALICE, join_rule="invite")

    assert outcome(await change_membership(actions, room_id, "invite", token, **body)) == expected


async def test_kick_ban_and_unban(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB, CAROL])

    by_carol = await change_membership(actions, room_id, "kick", "carol", user_id=BOB)
    kicked = await change_membership(actions, room_id, "kick", "alice", user_id=BOB, reason="out")
    second_kick = await change_membership(actions, room_id, "kick", "alice", user_id=BOB)
    not_banned = await change_membership(actions, room_id, "unban", "alice", user_id=BOB)
    banned = await change_membership(actions, room_id, "ban", "alice", user_id=BOB)
    join_while_banned = await change_membership(actions, room_id, "join", "bob")
    invited = await change_membership(actions, room_id, "invite", "alice", user_id=BOB)
    unbanned = await change_membership(actions, room_id, "unban", "alice", user_id=BOB)
    rejoined = await change_membership(actions, room_id, "join", "bob")
    stranger = await change_membership(actions, room_id, "ban", "dave", user_id=BOB)

    refused = (403, "M_FORBIDDEN")
    assert [
        outcome(response)
        for response in (by_carol, second_kick, not_banned, join_while_banned, invited, stranger)
    ] == [refused] * 6
    assert [response.status for response in (kicked, banned, unbanned, rejoined)] == [200] * 4
    assert await membership(actions, room_id, BOB) == "join"


async def test_second_leave_succeeds_but_leave_of_a_stranger_is_rejected(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])

    first = await change_membership(actions, room_id, "leave", "bob")
    repeated = await change_membership(actions, room_id, "leave", "bob")
    stranger = await change_membership(actions, room_id, "leave", "carol")

    assert (first.status, repeated.status) == (200, 200)
    assert outcome(stranger) == (403, "M_FORBIDDEN")


async def test_left_room_can_be_forgotten_until_it_is_joined_again(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    await actions.memberships.rooms_of(BOB)

    as_member = await change_membership(actions, room_id, "forget", "bob")
    await change_membership(actions, room_id, "leave", "bob")
    forgotten = await change_membership(actions, room_id, "forget", "bob")
    left = await actions.memberships.local_membership(room_id, BOB)
    await change_membership(actions, room_id, "join", "bob")
    rejoined = await actions.memberships.local_membership(room_id, BOB)
    stranger = await change_membership(actions, room_id, "forget", "carol")

    assert outcome(as_member) == (400, "M_UNKNOWN")
    assert forgotten.json == {}
    assert left is not None
    assert left.forgotten
    assert rejoined is not None
    assert not rejoined.forgotten
    assert outcome(stranger) == (404, "M_NOT_FOUND")


async def test_knock_is_answered_by_an_invite(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join_rule="knock")
    room_v6 = await actions.world.create_room(ALICE, version="6")
    client = actions.client()

    knocked = await client.post(f"{V3}/knock/{room_id}", {"reason": "please"}, token="bob")
    content = await actions.state(room_id, "m.room.member", BOB)
    invited = await change_membership(actions, room_id, "invite", "alice", user_id=BOB)
    joined = await change_membership(actions, room_id, "join", "bob")
    as_member = await client.post(f"{V3}/knock/{room_id}", {}, token="bob")
    too_old = await client.post(f"{V3}/knock/{room_v6}", {}, token="bob")

    assert knocked.json == {"room_id": room_id}
    assert content == {"membership": "knock", "reason": "please"}
    assert (invited.status, joined.status) == (200, 200)
    assert outcome(as_member) == outcome(too_old) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("version", "rule"), [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")]
)
async def test_member_of_an_allowed_room_joins_a_restricted_room(
    actions: Actions, version: str, rule: str
) -> None:
    space = await actions.world.create_room(ALICE, join=[BOB])
    room_id = await actions.world.create_room(ALICE, version=version)
    allow = [{"type": "other"}, {"type": "m.room_membership", "room_id": space}, 5]
    await actions.world.set_state(
        room_id, ALICE, "m.room.join_rules", {"join_rule": rule, "allow": allow}
    )

    member = await change_membership(actions, room_id, "join", "bob")
    stranger = await change_membership(actions, room_id, "join", "carol")
    await actions.world.set_membership(room_id, ALICE, DAVE, "invite")
    invited = await change_membership(actions, room_id, "join", "dave")

    assert member.status == invited.status == 200
    content = await actions.state(room_id, "m.room.member", BOB)
    assert content["join_authorised_via_users_server"] == ALICE
    assert "join_authorised_via_users_server" not in await actions.state(
        room_id, "m.room.member", DAVE
    )
    assert outcome(stranger) == (403, "M_FORBIDDEN")


async def test_restricted_join_requires_a_member_who_can_invite(
    actions: Actions,
) -> None:
    space = await actions.world.create_room(ALICE, join=[BOB])
    room_id = await actions.world.create_room(ALICE, join=[CAROL], power_levels={"invite": 60})
    await actions.world.set_state(
        room_id,
        ALICE,
        "m.room.join_rules",
        {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space}],
        },
    )
    await actions.world.leave(room_id, ALICE)

    refused = await change_membership(actions, room_id, "join", "bob")
    forged = await actions.client().put(
        f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}",
        {"membership": "join", "join_authorised_via_users_server": CAROL},
        token="bob",
    )

    assert outcome(refused) == outcome(forged) == (400, "M_UNABLE_TO_GRANT_JOIN")


async def test_restricted_join_is_authorised_by_any_member_if_all_can_invite(
    actions: Actions,
) -> None:
    space = await actions.world.create_room(ALICE, join=[BOB])
    room_id = await actions.world.create_room(ALICE, join=[CAROL])
    allow = [{"type": "m.room_membership", "room_id": space}]
    content = {"join_rule": "restricted", "allow": allow}
    await actions.world.set_state(room_id, ALICE, "m.room.join_rules", content)
    await actions.world.leave(room_id, ALICE)

    response = await change_membership(actions, room_id, "join", "bob")

    assert response.status == 200


async def test_guest_joins_only_rooms_with_guest_access(actions: Actions) -> None:
    actions.user(BOB, is_guest=True)
    closed_room = await actions.world.create_room(ALICE)
    open_room = await actions.world.create_room(
        ALICE, state=[Draft("m.room.guest_access", ALICE, {"guest_access": "can_join"}, "")]
    )

    refused = await change_membership(actions, closed_room, "join", "bob")
    joined = await change_membership(actions, open_room, "join", "bob")
    sent = await actions.client().put(
        f"{V3}/rooms/{open_room}/send/m.room.message/1", TEXT, token="bob"
    )

    assert outcome(refused) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (joined.status, sent.status) == (200, 200)


async def test_third_party_invite_is_accepted_with_a_valid_signature(actions: Actions) -> None:
    identity_server = Signer(ServerName("id.example"), SigningKey.from_seed("0", bytes(32)))
    room_id = await actions.world.create_room(
        ALICE,
        join_rule="invite",
        state=[
            Draft(
                "m.room.third_party_invite",
                ALICE,
                {"display_name": "b…@x", "public_key": identity_server.key.verify_key.base64},
                "token",
            )
        ],
    )
    signed = sign_json({"mxid": BOB, "token": "token", "sender": ALICE}, identity_server)
    signed_for_carol = sign_json(
        {"mxid": CAROL, "token": "token", "sender": ALICE}, identity_server
    )

    unknown = await change_membership(
        actions, room_id, "join", "bob", third_party_signed={**signed, "token": "other"}
    )
    wrong_user = await change_membership(
        actions, room_id, "join", "bob", third_party_signed=signed_for_carol
    )
    joined = await change_membership(actions, room_id, "join", "bob", third_party_signed=signed)

    assert outcome(unknown) == outcome(wrong_user) == (403, "M_FORBIDDEN")
    assert joined.status == 200
    assert await membership(actions, room_id, BOB) == "join"


async def test_member_event_can_be_set_as_state(actions: Actions) -> None:
    await actions.set_profile(BOB, displayname="Bob")
    room_id = await actions.world.create_room(ALICE)
    client = actions.client()
    path = f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}"

    joined = await client.put(path, {"membership": "join", "displayname": "Bobby"}, token="bob")
    content = await actions.state(room_id, "m.room.member", BOB)
    kicked = await client.put(path, {"membership": "leave"}, token="alice")
    no_membership = await client.put(path, {"displayname": "x"}, token="bob")
    no_user = await client.put(f"{path[:-5]}", {"membership": "join"}, token="bob")
    for_bob = await client.put(path, {"membership": "join"}, token="alice")

    assert joined.json["event_id"].startswith("$")
    assert content == {"membership": "join", "displayname": "Bobby"}
    assert kicked.status == 200
    assert outcome(no_membership) == (400, "M_BAD_JSON")
    assert no_user.status in (400, 403)
    assert outcome(for_bob) == (403, "M_FORBIDDEN")


async def test_joins_and_invites_are_rate_limited(database: Database) -> None:
    limits = attrs.evolve(
        NO_LIMITS,
        rc_joins=JoinRates(local=Rate(0.001, 1), remote=PLENTY),
        rc_invites=InviteRates(per_room=PLENTY, per_user=Rate(0, 1), per_issuer=PLENTY),
    )
    async with open_actions(database, attrs.evolve(SETTINGS, rate_limits=limits)) as actions:
        rooms = [await actions.world.create_room(ALICE) for _ in range(2)]
        joins = [await change_membership(actions, room_id, "join", "bob") for room_id in rooms]
        repeated = await change_membership(actions, rooms[0], "join", "bob")
        invites = [
            await change_membership(actions, room_id, "invite", "alice", user_id=CAROL)
            for room_id in rooms
        ]

        assert [response.status for response in joins] == [200, 429]
        assert joins[1].json["retry_after_ms"] > 0
        assert repeated.status == 200
        assert [outcome(response) for response in invites] == [
            (200, None),
            (429, "M_LIMIT_EXCEEDED"),
        ]


async def test_more_initial_invites_than_the_burst_limit_are_rejected_for_good(
    database: Database,
) -> None:
    limits = attrs.evolve(
        NO_LIMITS,
        rc_invites=InviteRates(per_room=PLENTY, per_user=PLENTY, per_issuer=Rate(0.001, 2)),
    )
    async with open_actions(database, attrs.evolve(SETTINGS, rate_limits=limits)) as actions:
        path = "/_matrix/client/v3/createRoom"
        invitees = [f"@u{n}:{SERVER}" for n in range(3)]

        too_many = await actions.client().post(path, {"invite": invitees}, token="alice")
        first = await actions.client().post(path, {"invite": invitees[:2]}, token="alice")
        too_soon = await actions.client().post(path, {"invite": invitees[:2]}, token="alice")

        assert outcome(too_many) == (400, "M_INVALID_PARAM")
        assert first.status == 200
        assert outcome(too_soon) == (429, "M_LIMIT_EXCEEDED")
        assert too_soon.json["retry_after_ms"] > 0


async def test_suspended_user_can_only_leave(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    actions.user(BOB, suspended=True)

    responses = [
        await change_membership(actions, room_id, "invite", "bob", user_id=CAROL),
        await actions.client().put(
            f"{V3}/rooms/{room_id}/send/m.room.message/1", TEXT, token="bob"
        ),
        await change_membership(actions, room_id, "leave", "bob"),
        await change_membership(actions, room_id, "join", "bob"),
    ]

    suspended = (403, "M_USER_SUSPENDED")
    assert [outcome(response) for response in responses] == [
        suspended,
        suspended,
        (200, None),
        suspended,
    ]


async def test_suspended_user_cannot_send_member_events_except_leave(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    open_to_knocks = await actions.world.create_room(ALICE, join_rule="knock")
    actions.user(BOB, suspended=True)
    changes = (
        (room_id, {"membership": "join", "displayname": "an advertisement"}),
        (open_to_knocks, {"membership": "knock"}),
        (room_id, {"membership": "join"}),
        (room_id, {"membership": "leave"}),
    )

    responses = [
        await actions.client().put(
            f"{V3}/rooms/{room}/state/m.room.member/{BOB}", content, token="bob"
        )
        for room, content in changes
    ]

    suspended = (403, "M_USER_SUSPENDED")
    assert [outcome(response) for response in responses] == [
        suspended,
        suspended,
        (200, None),
        (200, None),
    ]
    assert responses[2].json["event_id"].startswith("$")
