"""Joining, leaving, inviting, kicking, banning, knocking and forgetting over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from hs.core.ids import RoomID, ServerName
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import sign_json
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.rate_limits import InviteRates, JoinRates, Rate, RateLimitSettings
from hs.storage.database import Database
from tests.support.room_actions import DAVE, PLENTY, Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, SERVER, ZOE
from tests.support.web import Answer

V3 = "/_matrix/client/v3"


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def ask(acts: Actions, room_id: str, what: str, token: str, **body: Any) -> Answer:
    return await acts.client().post(f"{V3}/rooms/{room_id}/{what}", body, token=token)


async def membership(acts: Actions, room_id: RoomID, user_id: str) -> Any:
    return (await acts.state(room_id, "m.room.member", user_id)).get("membership")


def verdict(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.json.get("errcode")


async def test_joining_twice_makes_one_event(acts: Actions) -> None:
    acts.profiles.known[BOB] = {"displayname": "Bob"}
    room_id = await acts.world.create_room(ALICE)

    first = await ask(acts, room_id, "join", "bob", reason="hello")
    seen = len(acts.world.seen)
    again = await ask(acts, room_id, "join", "bob")

    assert first.json == again.json == {"room_id": room_id}
    assert len(acts.world.seen) == seen
    content = await acts.state(room_id, "m.room.member", BOB)
    assert content == {"membership": "join", "displayname": "Bob", "reason": "hello"}


async def test_what_else_a_body_says_goes_into_ones_own_member_event(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)

    answer = await ask(acts, room_id, "join", "bob", foo="bar", membership="ban")
    faulty = await ask(acts, room_id, "join", "carol", foo=1.5)

    assert answer.status == 200
    content = await acts.state(room_id, "m.room.member", BOB)
    assert content == {"membership": "join", "foo": "bar"}
    assert verdict(faulty) == (400, "M_BAD_JSON")


async def test_many_users_join_at_once(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    answers: list[Answer] = []

    async def join(token: str) -> None:
        answers.append(await ask(acts, room_id, "join", token))

    async with trio.open_nursery() as nursery:
        for token in ("bob", "carol", "dave", "bob"):
            nursery.start_soon(join, token)

    assert [one.status for one in answers] == [200] * 4
    present = await acts.memberships.present(room_id)
    assert set(present.joined) == {ALICE, BOB, CAROL, DAVE}
    joins = [row for _, row in acts.world.seen if row.sender == BOB]
    assert len(joins) == 1


async def test_rooms_are_joined_by_alias(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    await acts.aliases.add(ALICE, acts.aliases.named("here"), room_id)
    client = acts.client()

    joined = await client.post(
        f"{V3}/join/%23here:{SERVER}?via=a.example&server_name=b.example", {}, token="bob"
    )
    nowhere = await client.post(f"{V3}/join/%23gone:{SERVER}", {}, token="bob")
    neither = await client.post(f"{V3}/join/@bob:{SERVER}", {}, token="bob")
    no_server = await client.post(f"{V3}/join/{room_id}?via=%20", {}, token="bob")

    assert joined.json == {"room_id": room_id}
    assert verdict(nowhere) == (404, "M_NOT_FOUND")
    assert verdict(neither) == (400, "M_INVALID_PARAM")
    assert verdict(no_server) == (400, "M_INVALID_PARAM")


async def test_rooms_nobody_here_is_in_are_out_of_reach(acts: Actions) -> None:
    answers = [await ask(acts, "!far:elsewhere.example", what, "bob") for what in ("join", "leave")]
    knock = await acts.client().post(f"{V3}/knock/!far:elsewhere.example", {}, token="bob")

    assert [verdict(one) for one in (*answers, knock)] == [
        (404, "M_UNKNOWN"),
        (404, "M_NOT_FOUND"),
        (404, "M_UNKNOWN"),
    ]


async def test_invites_lead_in_and_can_be_rejected(acts: Actions) -> None:
    acts.profiles.known[BOB] = {"displayname": "Bob", "avatar_url": "mxc://a/b"}
    room_id = await acts.world.create_room(ALICE, join_rule="invite")

    invited = await ask(acts, room_id, "invite", "alice", user_id=BOB, reason="come")
    again = await ask(acts, room_id, "invite", "alice", user_id=BOB, reason="come")
    content = await acts.state(room_id, "m.room.member", BOB)
    rejected = await ask(acts, room_id, "leave", "bob", reason="no")
    refused = await ask(acts, room_id, "join", "bob")

    assert invited.json == again.json == rejected.json == {}
    assert content == {
        "membership": "invite",
        "displayname": "Bob",
        "avatar_url": "mxc://a/b",
        "reason": "come",
    }
    assert verdict(refused) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("token", "body", "expected"),
    [
        ("alice", {"user_id": ALICE}, (403, "M_FORBIDDEN")),
        ("carol", {"user_id": BOB}, (403, "M_FORBIDDEN")),
        ("alice", {"user_id": "bob"}, (400, "M_INVALID_PARAM")),
        ("alice", {}, (400, "M_MISSING_PARAM")),
        ("alice", {"user_id": 5}, (400, "M_BAD_JSON")),
        ("alice", {"user_id": ZOE}, (404, "M_UNKNOWN")),
        ("alice", {"medium": "email", "address": "a@b.c"}, (400, "M_MISSING_PARAM")),
    ],
)
async def test_invites_that_cannot_be(
    acts: Actions, token: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    room_id = await acts.world.create_room(ALICE, join_rule="invite")

    assert verdict(await ask(acts, room_id, "invite", token, **body)) == expected


async def test_kicks_bans_and_unbans(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB, CAROL])

    by_carol = await ask(acts, room_id, "kick", "carol", user_id=BOB)
    kicked = await ask(acts, room_id, "kick", "alice", user_id=BOB, reason="out")
    twice = await ask(acts, room_id, "kick", "alice", user_id=BOB)
    not_banned = await ask(acts, room_id, "unban", "alice", user_id=BOB)
    banned = await ask(acts, room_id, "ban", "alice", user_id=BOB)
    at_door = await ask(acts, room_id, "join", "bob")
    invited = await ask(acts, room_id, "invite", "alice", user_id=BOB)
    unbanned = await ask(acts, room_id, "unban", "alice", user_id=BOB)
    back = await ask(acts, room_id, "join", "bob")
    stranger = await ask(acts, room_id, "ban", "dave", user_id=BOB)

    refused = (403, "M_FORBIDDEN")
    assert [verdict(one) for one in (by_carol, twice, not_banned, at_door, invited, stranger)] == [
        refused
    ] * 6
    assert [one.status for one in (kicked, banned, unbanned, back)] == [200] * 4
    assert await membership(acts, room_id, BOB) == "join"


async def test_leaving_twice_is_fine_but_leaving_as_a_stranger_is_not(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])

    first = await ask(acts, room_id, "leave", "bob")
    again = await ask(acts, room_id, "leave", "bob")
    stranger = await ask(acts, room_id, "leave", "carol")

    assert (first.status, again.status) == (200, 200)
    assert verdict(stranger) == (403, "M_FORBIDDEN")


async def test_rooms_are_forgotten_once_left_and_known_again_once_joined(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    await acts.memberships.rooms_of(BOB)

    inside = await ask(acts, room_id, "forget", "bob")
    await ask(acts, room_id, "leave", "bob")
    forgotten = await ask(acts, room_id, "forget", "bob")
    own = await acts.memberships.local_membership(room_id, BOB)
    await ask(acts, room_id, "join", "bob")
    back = await acts.memberships.local_membership(room_id, BOB)
    stranger = await ask(acts, room_id, "forget", "carol")

    assert verdict(inside) == (400, "M_UNKNOWN")
    assert forgotten.json == {}
    assert own is not None
    assert own.forgotten
    assert back is not None
    assert not back.forgotten
    assert verdict(stranger) == (404, "M_NOT_FOUND")


async def test_knocking_asks_and_an_invite_answers(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join_rule="knock")
    older = await acts.world.create_room(ALICE, version="6")
    client = acts.client()

    knocked = await client.post(f"{V3}/knock/{room_id}", {"reason": "please"}, token="bob")
    content = await acts.state(room_id, "m.room.member", BOB)
    invited = await ask(acts, room_id, "invite", "alice", user_id=BOB)
    joined = await ask(acts, room_id, "join", "bob")
    inside = await client.post(f"{V3}/knock/{room_id}", {}, token="bob")
    too_old = await client.post(f"{V3}/knock/{older}", {}, token="bob")

    assert knocked.json == {"room_id": room_id}
    assert content == {"membership": "knock", "reason": "please"}
    assert (invited.status, joined.status) == (200, 200)
    assert verdict(inside) == verdict(too_old) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("version", "rule"), [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")]
)
async def test_members_of_an_allowed_room_join_a_restricted_one(
    acts: Actions, version: str, rule: str
) -> None:
    space = await acts.world.create_room(ALICE, join=[BOB])
    room_id = await acts.world.create_room(ALICE, version=version)
    allow = [{"type": "other"}, {"type": "m.room_membership", "room_id": space}, 5]
    await acts.world.set_state(
        room_id, ALICE, "m.room.join_rules", {"join_rule": rule, "allow": allow}
    )

    member = await ask(acts, room_id, "join", "bob")
    stranger = await ask(acts, room_id, "join", "carol")
    await acts.world.set_membership(room_id, ALICE, DAVE, "invite")
    invited = await ask(acts, room_id, "join", "dave")

    assert member.status == invited.status == 200
    content = await acts.state(room_id, "m.room.member", BOB)
    assert content["join_authorised_via_users_server"] == ALICE
    assert "join_authorised_via_users_server" not in await acts.state(
        room_id, "m.room.member", DAVE
    )
    assert verdict(stranger) == (403, "M_FORBIDDEN")


async def test_nobody_can_grant_a_restricted_join_without_the_power_to_invite(
    acts: Actions,
) -> None:
    space = await acts.world.create_room(ALICE, join=[BOB])
    room_id = await acts.world.create_room(ALICE, join=[CAROL], power_levels={"invite": 60})
    await acts.world.set_state(
        room_id,
        ALICE,
        "m.room.join_rules",
        {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space}],
        },
    )
    await acts.world.leave(room_id, ALICE)

    refused = await ask(acts, room_id, "join", "bob")
    cheated = await acts.client().put(
        f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}",
        {"membership": "join", "join_authorised_via_users_server": CAROL},
        token="bob",
    )

    assert verdict(refused) == verdict(cheated) == (400, "M_UNABLE_TO_GRANT_JOIN")


async def test_any_member_lets_others_in_where_all_may_invite(acts: Actions) -> None:
    space = await acts.world.create_room(ALICE, join=[BOB])
    room_id = await acts.world.create_room(ALICE, join=[CAROL])
    allow = [{"type": "m.room_membership", "room_id": space}]
    content = {"join_rule": "restricted", "allow": allow}
    await acts.world.set_state(room_id, ALICE, "m.room.join_rules", content)
    await acts.world.leave(room_id, ALICE)

    answer = await ask(acts, room_id, "join", "bob")

    assert answer.status == 200


async def test_guests_join_only_where_guests_may(acts: Actions) -> None:
    acts.user(BOB, is_guest=True)
    shut = await acts.world.create_room(ALICE)
    open_room = await acts.world.create_room(
        ALICE, state=[Draft("m.room.guest_access", ALICE, {"guest_access": "can_join"}, "")]
    )

    refused = await ask(acts, shut, "join", "bob")
    joined = await ask(acts, open_room, "join", "bob")
    sent = await acts.client().put(
        f"{V3}/rooms/{open_room}/send/m.room.message/1", {"body": "x"}, token="bob"
    )

    assert verdict(refused) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (joined.status, sent.status) == (200, 200)


async def test_a_third_party_invite_is_accepted_with_its_signature(acts: Actions) -> None:
    identity_server = Signer(ServerName("id.example"), SigningKey.from_seed("0", bytes(32)))
    room_id = await acts.world.create_room(
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
    stolen = sign_json({"mxid": CAROL, "token": "token", "sender": ALICE}, identity_server)

    unknown = await ask(
        acts, room_id, "join", "bob", third_party_signed={**signed, "token": "other"}
    )
    not_theirs = await ask(acts, room_id, "join", "bob", third_party_signed=stolen)
    joined = await ask(acts, room_id, "join", "bob", third_party_signed=signed)

    assert verdict(unknown) == verdict(not_theirs) == (403, "M_FORBIDDEN")
    assert joined.status == 200
    assert await membership(acts, room_id, BOB) == "join"


async def test_members_can_be_set_as_state(acts: Actions) -> None:
    acts.profiles.known[BOB] = {"displayname": "Bob"}
    room_id = await acts.world.create_room(ALICE)
    client = acts.client()
    path = f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}"

    joined = await client.put(path, {"membership": "join", "displayname": "Bobby"}, token="bob")
    content = await acts.state(room_id, "m.room.member", BOB)
    kicked = await client.put(path, {"membership": "leave"}, token="alice")
    nothing = await client.put(path, {"displayname": "x"}, token="bob")
    no_user = await client.put(f"{path[:-5]}", {"membership": "join"}, token="bob")
    for_bob = await client.put(path, {"membership": "join"}, token="alice")

    assert joined.json["event_id"].startswith("$")
    assert content == {"membership": "join", "displayname": "Bobby"}
    assert kicked.status == 200
    assert verdict(nothing) == (400, "M_BAD_JSON")
    assert no_user.status in (400, 403)
    assert verdict(for_bob) == (403, "M_FORBIDDEN")


async def test_joins_and_invites_are_counted(database: Database) -> None:
    few = RateLimitSettings(
        rc_joins=JoinRates(local=Rate(0.001, 1), remote=PLENTY),
        rc_joins_per_room=PLENTY,
        rc_invites=InviteRates(per_room=PLENTY, per_user=Rate(0, 1), per_issuer=PLENTY),
    )
    async with open_actions(database, limits=few) as acts:
        rooms = [await acts.world.create_room(ALICE) for _ in range(2)]
        joins = [await ask(acts, one, "join", "bob") for one in rooms]
        again = await ask(acts, rooms[0], "join", "bob")
        invites = [await ask(acts, one, "invite", "alice", user_id=CAROL) for one in rooms]

        assert [one.status for one in joins] == [200, 429]
        assert joins[1].json["retry_after_ms"] > 0
        assert again.status == 200
        assert [verdict(one) for one in invites] == [(200, None), (429, "M_LIMIT_EXCEEDED")]


async def test_more_first_invites_than_ever_allowed_at_once_are_no_matter_of_time(
    database: Database,
) -> None:
    few = RateLimitSettings(
        rc_joins=JoinRates(local=PLENTY, remote=PLENTY),
        rc_joins_per_room=PLENTY,
        rc_invites=InviteRates(per_room=PLENTY, per_user=PLENTY, per_issuer=Rate(0.001, 2)),
    )
    async with open_actions(database, limits=few) as acts:
        path = "/_matrix/client/v3/createRoom"
        three = [f"@u{n}:{SERVER}" for n in range(3)]

        too_many = await acts.client().post(path, {"invite": three}, token="alice")
        first = await acts.client().post(path, {"invite": three[:2]}, token="alice")
        too_soon = await acts.client().post(path, {"invite": three[:2]}, token="alice")

        assert verdict(too_many) == (400, "M_INVALID_PARAM")
        assert first.status == 200
        assert verdict(too_soon) == (429, "M_LIMIT_EXCEEDED")
        assert too_soon.json["retry_after_ms"] > 0


async def test_suspended_users_may_only_leave(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    acts.user(BOB, suspended=True)

    answers = [
        await ask(acts, room_id, "invite", "bob", user_id=CAROL),
        await acts.client().put(
            f"{V3}/rooms/{room_id}/send/m.room.message/1", {"body": "x"}, token="bob"
        ),
        await ask(acts, room_id, "leave", "bob"),
        await ask(acts, room_id, "join", "bob"),
    ]

    suspended = (403, "M_USER_SUSPENDED")
    assert [verdict(one) for one in answers] == [suspended, suspended, (200, None), suspended]


async def test_suspended_users_make_no_member_events_but_leaves(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    open_to_knocks = await acts.world.create_room(ALICE, join_rule="knock")
    acts.user(BOB, suspended=True)
    wishes = (
        (room_id, {"membership": "join", "displayname": "an advertisement"}),
        (open_to_knocks, {"membership": "knock"}),
        (room_id, {"membership": "join"}),
        (room_id, {"membership": "leave"}),
    )

    answers = [
        await acts.client().put(
            f"{V3}/rooms/{room}/state/m.room.member/{BOB}", content, token="bob"
        )
        for room, content in wishes
    ]

    suspended = (403, "M_USER_SUSPENDED")
    assert [verdict(one) for one in answers] == [suspended, suspended, (200, None), (200, None)]
    assert answers[2].json["event_id"].startswith("$")
