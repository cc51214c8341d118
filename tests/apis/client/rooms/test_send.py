"""Sending messages, state and redactions over HTTP."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import trio

from hs.core.ids import EventID
from hs.core.versions import ROOM_VERSIONS
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, SERVER
from tests.support.web import Answer

V3 = "/_matrix/client/v3"
TEXT = {"msgtype": "m.text", "body": "hi"}


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def put(
    acts: Actions, room_id: str, rest: str, content: Any, token: str = "alice", **more: Any
) -> Answer:
    path = f"{V3}/rooms/{room_id}/{rest}"
    return await acts.client().put(path, content, token=token, **more)


def verdict(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.json.get("errcode")


async def content_of(acts: Actions, answer: Answer) -> Any:
    stored = await acts.world.events.get_one(EventID(answer.json["event_id"]))
    assert stored is not None
    return stored.event.content


async def test_the_same_transaction_twice_at_once_is_one_event(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    answers: list[Answer] = []

    async def send() -> None:
        answers.append(await put(acts, room_id, "send/m.room.message/t", TEXT))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(send)
    other_type = await put(acts, room_id, "send/m.room.other/t", TEXT)
    acts.user(ALICE, device_id="OTHER")
    other_device = await put(acts, room_id, "send/m.room.message/t", TEXT)

    ids = {one.json["event_id"] for one in answers}
    assert len(ids) == 1
    assert not ids & {other_type.json["event_id"], other_device.json["event_id"]}


async def test_messages_need_no_transaction_when_posted(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    client = acts.client()
    path = f"{V3}/rooms/{room_id}/send/m.room.message"

    answers = [await client.post(path, TEXT, token="alice") for _ in range(2)]

    assert len({one.json["event_id"] for one in answers}) == 2


@pytest.mark.parametrize(
    ("rest", "content", "expected"),
    [
        ("send/m.room.message/1", {"n": 1.5}, (400, "M_BAD_JSON")),
        ("send/m.room.message/1", {"n": 2**53}, (400, "M_BAD_JSON")),
        ("send/m.room.message/1", [], (400, "M_BAD_JSON")),
        ("send/m.room.message/1", {"body": "x" * 66_000}, (413, "M_TOO_LARGE")),
        (f"send/{'t' * 300}/1", {}, (413, "M_TOO_LARGE")),
        ("send/m.room.message/1?org.matrix.msc4140.delay=0", {}, (400, "M_INVALID_PARAM")),
        ("state/m.room.topic?org.matrix.msc4140.delay=soon", {}, (400, "M_INVALID_PARAM")),
        ("send/m.room.message/1?ts=soon", {}, (400, "M_INVALID_PARAM")),
        ("state/m.room.create", {}, (403, "M_FORBIDDEN")),
        (f"state/org.example/{BOB}", {}, (403, "M_FORBIDDEN")),
        ("send/m.room.redaction/1", {}, (400, "M_BAD_JSON")),
        ("send/m.room.redaction/1", {"redacts": "x"}, (400, "M_INVALID_PARAM")),
        ("redact/nothing/1", {}, (400, "M_INVALID_PARAM")),
        ("state/m.room.redaction", {"redacts": "$x"}, (400, "M_INVALID_PARAM")),
        ("state/m.room.redaction/$x", {}, (400, "M_INVALID_PARAM")),
        (
            "state/m.room.redaction/k?org.matrix.msc4140.delay=1000",
            {"redacts": "$x"},
            (400, "M_INVALID_PARAM"),
        ),
    ],
)
async def test_what_cannot_be_sent_is_refused(
    acts: Actions, rest: str, content: Any, expected: tuple[int, str]
) -> None:
    room_id = await acts.world.create_room(ALICE)

    assert verdict(await put(acts, room_id, rest, content)) == expected


async def test_only_members_with_power_send(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])

    answers = [
        await put(acts, room_id, "send/m.room.message/1", TEXT, "carol"),
        await put(acts, "!unknown:elsewhere.example", "send/m.room.message/1", TEXT, "carol"),
        await put(acts, room_id, "state/m.room.name", {"name": "x"}, "bob"),
        await put(acts, room_id, "state/m.room.name", {"name": "x"}, "carol"),
    ]

    assert [verdict(one) for one in answers] == [(403, "M_FORBIDDEN")] * 4


async def test_state_is_set_with_and_without_a_key(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)

    bare = await put(acts, room_id, "state/m.room.name", {"name": "a"})
    slash = await put(acts, room_id, "state/m.room.name/", {"name": "a"})
    changed = await put(acts, room_id, "state/m.room.name/", {"name": "b"})
    keyed = await put(acts, room_id, "state/org.example/a%2Fb", {"x": 1})

    assert bare.json == slash.json
    assert changed.json != bare.json
    assert keyed.status == 200
    assert await acts.state(room_id, "m.room.name") == {"name": "b"}
    assert await acts.state(room_id, "org.example", "a/b") == {"x": 1}


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_redactions_are_sent_either_way_in_every_version(acts: Actions, version: str) -> None:
    room_id = await acts.world.create_room(ALICE, version=version)
    first = await acts.world.send(room_id, ALICE)
    second = await acts.world.send(room_id, ALICE)

    # In room version 3 the IDs of events have slashes.
    rest = f"redact/{quote(first.event_id, safe='')}/t"
    one = await put(acts, room_id, rest, {"reason": "typo"})
    again = await put(acts, room_id, rest, {"reason": "typo"})
    two = await put(
        acts, room_id, "send/m.room.redaction/t", {"redacts": second.event_id, "reason": "too"}
    )

    assert one.json == again.json
    stored = await acts.world.events.get([first.event_id, second.event_id])
    assert [kept.redacted_by for kept in stored.values()] == [
        one.json["event_id"],
        two.json["event_id"],
    ]
    redaction = await acts.world.events.get_one(EventID(two.json["event_id"]))
    assert redaction is not None
    assert redaction.event.redacts == second.event_id
    in_content = ROOM_VERSIONS[version].redacts_in_content
    assert ("redacts" in redaction.event.content) == in_content
    assert ("redacts" in redaction.event.pdu) == (not in_content)
    assert redaction.event.content["reason"] == "too"


async def test_others_messages_are_redacted_with_power_only_and_only_here(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB, CAROL])
    elsewhere = await acts.world.create_room(BOB)
    sent = await acts.world.send(room_id, CAROL)
    other = await acts.world.send(elsewhere, BOB)

    by_bob = await put(acts, room_id, f"redact/{sent.event_id}/1", {}, "bob")
    from_here = await put(acts, room_id, f"redact/{other.event_id}/2", {}, "bob")
    by_alice = await put(acts, room_id, f"redact/{sent.event_id}/3", {})

    assert verdict(by_bob) == (403, "M_FORBIDDEN")
    assert verdict(from_here) == (400, "M_INVALID_PARAM")
    assert by_alice.status == 200


def reaction(parent: str, key: str = "👍") -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": parent, "key": key}}


def thread(root: str) -> dict[str, Any]:
    return {**TEXT, "m.relates_to": {"rel_type": "m.thread", "event_id": root}}


async def test_one_reacts_once_unless_it_is_taken_back(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    parent = (await acts.world.send(room_id, ALICE)).event_id

    first = await put(acts, room_id, "send/m.reaction/1", reaction(parent))
    retried = await put(acts, room_id, "send/m.reaction/1", reaction(parent))
    doubled = await put(acts, room_id, "send/m.reaction/2", reaction(parent))
    other_key = await put(acts, room_id, "send/m.reaction/3", reaction(parent, "👎"))
    by_bob = await put(acts, room_id, "send/m.reaction/1", reaction(parent), "bob")
    await put(acts, room_id, f"redact/{first.json['event_id']}/1", {})
    afresh = await put(acts, room_id, "send/m.reaction/4", reaction(parent))

    assert retried.json == first.json
    assert verdict(doubled) == (400, "M_DUPLICATE_ANNOTATION")
    assert [one.status for one in (other_key, by_bob, afresh)] == [200] * 3


async def test_of_equal_reactions_at_once_one_is_taken(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    parent = (await acts.world.send(room_id, ALICE)).event_id
    answers: list[Answer] = []

    async def react(n: int) -> None:
        answers.append(await put(acts, room_id, f"send/m.reaction/{n}", reaction(parent)))

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(react, n)

    assert sorted(one.status for one in answers) == [200, *[400] * 7]
    assert {one.errcode for one in answers if one.status == 400} == {"M_DUPLICATE_ANNOTATION"}


async def test_threads_start_from_events_that_are_in_none(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    elsewhere = await acts.world.create_room(ALICE)
    root = (await acts.world.send(room_id, ALICE)).event_id
    other = (await acts.world.send(elsewhere, ALICE)).event_id

    reply = await put(acts, room_id, "send/m.room.message/1", thread(root))
    nested = await put(acts, room_id, "send/m.room.message/2", thread(reply.json["event_id"]))
    abroad = await put(acts, room_id, "send/m.room.message/3", thread(other))
    malformed = await put(acts, room_id, "send/m.room.message/4", {"m.relates_to": "x"})

    assert reply.status == malformed.status == 200
    assert verdict(nested) == verdict(abroad) == (400, "M_UNKNOWN")


async def test_canonical_aliases_must_point_here(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    other = await acts.world.create_room(ALICE)
    here = acts.aliases.named("here")
    there = acts.aliases.named("there")
    await acts.aliases.add(ALICE, here, room_id)
    await acts.aliases.add(ALICE, there, other)
    await acts.world.set_state(room_id, ALICE, "m.room.canonical_alias", {"alias": "#old:x.y"})
    rest = "state/m.room.canonical_alias"

    answers = [
        await put(acts, room_id, rest, {"alias": here, "alt_aliases": ["#old:x.y"]}),
        await put(acts, room_id, rest, {"alias": there}),
        await put(acts, room_id, rest, {"alt_aliases": [f"#gone:{SERVER}"]}),
        await put(acts, room_id, rest, {"alias": "#new:x.y"}),
        await put(acts, room_id, rest, {"alias": "here"}),
        await put(acts, room_id, rest, {"alias": 5}),
        await put(acts, room_id, rest, {"alt_aliases": "x"}),
        await put(acts, room_id, rest, {}),
    ]

    assert [verdict(one) for one in answers] == [
        (200, None),
        (400, "M_BAD_ALIAS"),
        (400, "M_BAD_ALIAS"),
        (400, "M_BAD_ALIAS"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (400, "M_INVALID_PARAM"),
        (200, None),
    ]


async def test_application_services_choose_the_time_and_others_do_not(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    acts.user(ALICE, appservice_id="bridge")
    sent = await put(acts, room_id, "send/m.room.message/1?ts=1234", TEXT)
    acts.user(ALICE)
    ignored = await put(acts, room_id, "send/m.room.message/2?ts=1234", TEXT)

    ids = [EventID(one.json["event_id"]) for one in (sent, ignored)]
    times = [one.event.origin_server_ts for one in (await acts.world.events.get(ids)).values()]
    assert times[0] == 1234
    assert times[1] != 1234


async def test_shadow_banned_users_hear_that_all_went_well(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    acts.user(BOB, shadow=True)
    seen = len(acts.world.seen)

    sent = await put(acts, room_id, "send/m.room.message/1", TEXT, "bob")

    assert sent.json["event_id"].startswith("$")
    assert len(acts.world.seen) == seen


async def test_a_plain_message_reads_nothing_from_the_database(
    acts: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await acts.world.create_room(ALICE)
    await put(acts, room_id, "send/m.room.message/1", TEXT)
    reads: list[str] = []
    read = acts.world.database.read

    async def counted(unit: Any, *args: Any, **more: Any) -> Any:
        reads.append(unit.__name__)
        return await read(unit, *args, **more)

    monkeypatch.setattr(type(acts.world.database), "read", staticmethod(counted))
    sent = await put(acts, room_id, "send/m.room.message/2", TEXT)

    assert sent.status == 200
    assert reads == []


@pytest.mark.parametrize("version", ["10", "11"])
async def test_what_would_break_the_room_is_not_redacted(acts: Actions, version: str) -> None:
    """Without its content a room's first event has no version, and a list of servers no server."""
    listed = Draft("m.room.server_acl", ALICE, {"allow": ["*"]}, "")
    room_id = await acts.world.create_room(ALICE, version=version, state=[listed])
    state = await acts.world.states.current(room_id)
    first, servers = state["m.room.create", ""], state["m.room.server_acl", ""]

    by_path = await put(acts, room_id, f"redact/{quote(first, safe='')}/1", {})
    by_content = await put(acts, room_id, "send/m.room.redaction/2", {"redacts": servers})

    assert verdict(by_path) == (403, "M_FORBIDDEN")
    assert verdict(by_content) == (403, "M_FORBIDDEN")
    assert await acts.state(room_id, "m.room.server_acl") == {"allow": ["*"]}
