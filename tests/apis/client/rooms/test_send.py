"""Sending messages, state and redactions over HTTP."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import trio

from hs.apis.client.rooms.send import STICKY_DURATION
from hs.core.ids import EventID
from hs.core.versions import ROOM_VERSIONS
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.room_actions import DELAYED_EVENTS, Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.web import WebResponse

V3 = "/_matrix/client/v3"
TEXT = {"msgtype": "m.text", "body": "hi"}


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database, DELAYED_EVENTS) as actions:
        yield actions


async def put(
    actions: Actions, room_id: str, rest: str, content: Any, token: str = "alice", **more: Any
) -> WebResponse:
    path = f"{V3}/rooms/{room_id}/{rest}"
    return await actions.client().put(path, content, token=token, **more)


def outcome(response: WebResponse) -> tuple[int, str | None]:
    return response.status, response.json.get("errcode")


async def content_of(actions: Actions, response: WebResponse) -> Any:
    stored = await actions.world.events.get_one(EventID(response.json["event_id"]))
    assert stored is not None
    return stored.event.content


async def test_concurrent_requests_of_one_transaction_send_one_event(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    responses: list[WebResponse] = []

    async def send() -> None:
        responses.append(await put(actions, room_id, "send/m.room.message/t", TEXT))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(send)
    other_type = await put(actions, room_id, "send/m.room.other/t", TEXT)
    actions.user(ALICE, device_id="OTHER")
    other_device = await put(actions, room_id, "send/m.room.message/t", TEXT)

    ids = {response.json["event_id"] for response in responses}
    assert len(ids) == 1
    assert not ids & {other_type.json["event_id"], other_device.json["event_id"]}


async def test_post_sends_without_a_transaction_id(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    client = actions.client()
    path = f"{V3}/rooms/{room_id}/send/m.room.message"

    responses = [await client.post(path, TEXT, token="alice") for _ in range(2)]

    assert len({response.json["event_id"] for response in responses}) == 2


@pytest.mark.parametrize(
    ("rest", "content", "expected"),
    [
        ("send/m.room.message/1", {**TEXT, "n": 1.5}, (400, "M_BAD_JSON")),
        ("send/m.room.message/1", {**TEXT, "n": 2**53}, (400, "M_BAD_JSON")),
        ("send/m.room.message/1", [], (400, "M_BAD_JSON")),
        ("send/m.room.message/1", {**TEXT, "body": "x" * 66_000}, (413, "M_TOO_LARGE")),
        (f"send/{'t' * 300}/1", {}, (413, "M_TOO_LARGE")),
        ("send/m.room.message/1?org.matrix.msc4140.delay=0", TEXT, (400, "M_INVALID_PARAM")),
        ("state/m.room.topic?org.matrix.msc4140.delay=soon", {}, (400, "M_INVALID_PARAM")),
        ("send/m.room.message/1?ts=soon", TEXT, (400, "M_INVALID_PARAM")),
        ("state/m.room.create", {}, (400, "M_INVALID_PARAM")),
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
async def test_invalid_event_is_rejected(
    actions: Actions, rest: str, content: Any, expected: tuple[int, str]
) -> None:
    room_id = await actions.world.create_room(ALICE)

    assert outcome(await put(actions, room_id, rest, content)) == expected


async def test_creator_in_power_levels_and_denied_own_server_are_rejected(
    actions: Actions,
) -> None:
    room_id = await actions.world.create_room(ALICE, version="12")
    older = await actions.world.create_room(ALICE)
    levels = {"users": {ALICE: 100}}
    acl = {"allow": ["*"], "deny": [SERVER]}

    creator = await put(actions, room_id, "state/m.room.power_levels", levels)
    in_older_room = await put(actions, older, "state/m.room.power_levels", levels)
    denied = await put(actions, room_id, "state/m.room.server_acl", acl)

    assert outcome(creator) == (400, "M_INVALID_PARAM")
    assert outcome(in_older_room) == (200, None)
    assert outcome(denied) == (400, "M_BAD_JSON")


async def test_levels_that_are_text_are_sent_back_in_rooms_before_version_10(
    actions: Actions,
) -> None:
    levels = {"users": {ALICE: "100"}, "state_default": "50"}
    older = await actions.world.create_room(ALICE, version="9", power_levels=levels)
    newer = await actions.world.create_room(ALICE, version="10")
    path, changed = "state/m.room.power_levels", {**levels, "ban": 60}

    in_older_room = await put(actions, older, path, changed)
    in_newer_room = await put(actions, newer, path, changed)

    assert outcome(in_older_room) == (200, None)
    assert outcome(in_newer_room) == (400, "M_BAD_JSON")


@pytest.mark.parametrize("rel_type", ["m.thread", "m.annotation", "m.reference", "m.replace"])
async def test_relation_to_an_unknown_event_is_rejected(actions: Actions, rel_type: str) -> None:
    room_id = await actions.world.create_room(ALICE)
    relates_to = {"rel_type": rel_type, "event_id": "$unknown", "key": "x"}

    response = await put(
        actions, room_id, "send/m.room.message/1", TEXT | {"m.relates_to": relates_to}
    )

    assert outcome(response) == (400, "M_UNKNOWN")


async def test_relation_to_a_missing_event_that_others_relate_to_is_accepted(
    actions: Actions,
) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    elsewhere = await actions.world.create_room(ALICE)
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$not-fetched"}}
    await actions.world.append(room_id, Draft("m.room.message", BOB, TEXT | relation))

    response = await put(actions, room_id, "send/m.room.message/1", TEXT | relation)
    in_other_room = await put(actions, elsewhere, "send/m.room.message/1", TEXT | relation)

    assert outcome(response) == (200, None)
    assert outcome(in_other_room) == (400, "M_UNKNOWN")


async def test_sending_requires_membership_and_power(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])

    responses = [
        await put(actions, room_id, "send/m.room.message/1", TEXT, "carol"),
        await put(actions, "!unknown:elsewhere.example", "send/m.room.message/1", TEXT, "carol"),
        await put(actions, room_id, "state/m.room.name", {"name": "x"}, "bob"),
        await put(actions, room_id, "state/m.room.name", {"name": "x"}, "carol"),
    ]

    assert [outcome(response) for response in responses] == [(403, "M_FORBIDDEN")] * 4


async def test_state_is_set_with_and_without_a_state_key(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)

    without_slash = await put(actions, room_id, "state/m.room.name", {"name": "a"})
    with_slash = await put(actions, room_id, "state/m.room.name/", {"name": "a"})
    changed = await put(actions, room_id, "state/m.room.name/", {"name": "b"})
    keyed = await put(actions, room_id, "state/org.example/a%2Fb", {"x": 1})

    assert without_slash.json == with_slash.json
    assert changed.json != without_slash.json
    assert keyed.status == 200
    assert await actions.state(room_id, "m.room.name") == {"name": "b"}
    assert await actions.state(room_id, "org.example", "a/b") == {"x": 1}


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_redaction_by_both_endpoints_in_every_room_version(
    actions: Actions, version: str
) -> None:
    room_id = await actions.world.create_room(ALICE, version=version)
    first = await actions.world.send(room_id, ALICE)
    second = await actions.world.send(room_id, ALICE)

    # Event IDs of room version 3 may contain slashes.
    rest = f"redact/{quote(first.event_id, safe='')}/t"
    by_path = await put(actions, room_id, rest, {"reason": "typo"})
    again = await put(actions, room_id, rest, {"reason": "typo"})
    by_content = await put(
        actions, room_id, "send/m.room.redaction/t", {"redacts": second.event_id, "reason": "too"}
    )

    assert by_path.json == again.json
    stored = await actions.world.events.get([first.event_id, second.event_id])
    assert [stored_event.redacted_by for stored_event in stored.values()] == [
        by_path.json["event_id"],
        by_content.json["event_id"],
    ]
    redaction = await actions.world.events.get_one(EventID(by_content.json["event_id"]))
    assert redaction is not None
    assert redaction.event.redacts == second.event_id
    in_content = ROOM_VERSIONS[version].redacts_in_content
    assert ("redacts" in redaction.event.content) == in_content
    assert ("redacts" in redaction.event.pdu) == (not in_content)
    assert redaction.event.content["reason"] == "too"


async def test_redaction_requires_power_and_an_event_of_the_same_room(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB, CAROL])
    elsewhere = await actions.world.create_room(BOB)
    sent = await actions.world.send(room_id, CAROL)
    other = await actions.world.send(elsewhere, BOB)

    by_bob = await put(actions, room_id, f"redact/{sent.event_id}/1", {}, "bob")
    from_here = await put(actions, room_id, f"redact/{other.event_id}/2", {}, "bob")
    by_alice = await put(actions, room_id, f"redact/{sent.event_id}/3", {})

    assert outcome(by_bob) == (403, "M_FORBIDDEN")
    assert outcome(from_here) == (400, "M_INVALID_PARAM")
    assert by_alice.status == 200


def reaction(parent: str, key: str = "👍") -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": parent, "key": key}}


def thread(root: str) -> dict[str, Any]:
    return {**TEXT, "m.relates_to": {"rel_type": "m.thread", "event_id": root}}


async def test_duplicate_reaction_is_rejected_until_redacted(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    parent = (await actions.world.send(room_id, ALICE)).event_id

    first = await put(actions, room_id, "send/m.reaction/1", reaction(parent))
    retried = await put(actions, room_id, "send/m.reaction/1", reaction(parent))
    doubled = await put(actions, room_id, "send/m.reaction/2", reaction(parent))
    other_key = await put(actions, room_id, "send/m.reaction/3", reaction(parent, "👎"))
    by_bob = await put(actions, room_id, "send/m.reaction/1", reaction(parent), "bob")
    await put(actions, room_id, f"redact/{first.json['event_id']}/1", {})
    after_redaction = await put(actions, room_id, "send/m.reaction/4", reaction(parent))

    assert retried.json == first.json
    assert outcome(doubled) == (400, "M_DUPLICATE_ANNOTATION")
    assert [response.status for response in (other_key, by_bob, after_redaction)] == [200] * 3


async def test_one_of_concurrent_equal_reactions_is_accepted(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    parent = (await actions.world.send(room_id, ALICE)).event_id
    responses: list[WebResponse] = []

    async def react(n: int) -> None:
        responses.append(await put(actions, room_id, f"send/m.reaction/{n}", reaction(parent)))

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(react, n)

    assert sorted(response.status for response in responses) == [200, *[400] * 7]
    assert {response.errcode for response in responses if response.status == 400} == {
        "M_DUPLICATE_ANNOTATION"
    }


async def test_thread_root_must_be_outside_of_threads_and_in_the_room(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    elsewhere = await actions.world.create_room(ALICE)
    root = (await actions.world.send(room_id, ALICE)).event_id
    other = (await actions.world.send(elsewhere, ALICE)).event_id

    reply = await put(actions, room_id, "send/m.room.message/1", thread(root))
    nested = await put(actions, room_id, "send/m.room.message/2", thread(reply.json["event_id"]))
    other_room = await put(actions, room_id, "send/m.room.message/3", thread(other))
    malformed = await put(actions, room_id, "send/m.room.message/4", TEXT | {"m.relates_to": "x"})

    assert reply.status == malformed.status == 200
    assert outcome(nested) == outcome(other_room) == (400, "M_UNKNOWN")


async def test_canonical_alias_must_resolve_to_the_room(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    other = await actions.world.create_room(ALICE)
    here = actions.aliases.local_alias("here")
    there = actions.aliases.local_alias("there")
    await actions.aliases.add(ALICE, here, room_id)
    await actions.aliases.add(ALICE, there, other)
    await actions.world.set_state(room_id, ALICE, "m.room.canonical_alias", {"alias": "#old:x.y"})
    rest = "state/m.room.canonical_alias"

    responses = [
        await put(actions, room_id, rest, {"alias": here, "alt_aliases": ["#old:x.y"]}),
        await put(actions, room_id, rest, {"alias": there}),
        await put(actions, room_id, rest, {"alt_aliases": [f"#gone:{SERVER}"]}),
        await put(actions, room_id, rest, {"alias": "#new:x.y"}),
        await put(actions, room_id, rest, {"alias": "here"}),
        await put(actions, room_id, rest, {"alias": 5}),
        await put(actions, room_id, rest, {"alt_aliases": "x"}),
        await put(actions, room_id, rest, {}),
    ]

    assert [outcome(response) for response in responses] == [
        (200, None),
        (400, "M_BAD_ALIAS"),
        (400, "M_BAD_ALIAS"),
        (400, "M_BAD_ALIAS"),
        (400, "M_INVALID_PARAM"),
        (400, "M_BAD_JSON"),
        (400, "M_BAD_JSON"),
        (200, None),
    ]


async def test_only_application_services_can_set_the_timestamp(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    actions.user(ALICE, appservice_id="bridge")
    sent = await put(actions, room_id, "send/m.room.message/1?ts=1234", TEXT)
    actions.user(ALICE)
    ignored = await put(actions, room_id, "send/m.room.message/2?ts=1234", TEXT)

    ids = [EventID(response.json["event_id"]) for response in (sent, ignored)]
    times = [
        stored.event.origin_server_ts for stored in (await actions.world.events.get(ids)).values()
    ]
    assert times[0] == 1234
    assert times[1] != 1234


async def test_event_of_a_shadow_banned_user_seems_to_be_sent(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE, join=[BOB])
    actions.user(BOB, is_shadow_banned=True)
    seen = len(actions.world.seen)

    sent = await put(actions, room_id, "send/m.room.message/1", TEXT, "bob")

    assert sent.json["event_id"].startswith("$")
    assert len(actions.world.seen) == seen


async def test_plain_message_reads_nothing_from_the_database(
    actions: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await actions.world.create_room(ALICE)
    await put(actions, room_id, "send/m.room.message/1", TEXT)
    reads: list[str] = []
    read = actions.world.database.read

    async def record_read(unit: Any, *args: Any, **more: Any) -> Any:
        reads.append(unit.__name__)
        return await read(unit, *args, **more)

    monkeypatch.setattr(type(actions.world.database), "read", staticmethod(record_read))
    sent = await put(actions, room_id, "send/m.room.message/2", TEXT)

    assert sent.status == 200
    assert reads == []


@pytest.mark.parametrize("version", ["10", "11"])
async def test_create_and_server_acl_events_cannot_be_redacted(
    actions: Actions, version: str
) -> None:
    """Redacted, the create event would lose the room version, and the ACL would ban all servers."""
    server_acl = Draft("m.room.server_acl", ALICE, {"allow": ["*"]}, "")
    room_id = await actions.world.create_room(ALICE, version=version, state=[server_acl])
    state = await actions.world.states.current(room_id)
    first, servers = state["m.room.create", ""], state["m.room.server_acl", ""]

    by_path = await put(actions, room_id, f"redact/{quote(first, safe='')}/1", {})
    by_content = await put(actions, room_id, "send/m.room.redaction/2", {"redacts": servers})

    assert outcome(by_path) == (403, "M_FORBIDDEN")
    assert outcome(by_content) == (403, "M_FORBIDDEN")
    assert await actions.state(room_id, "m.room.server_acl") == {"allow": ["*"]}


async def test_sticky_duration_becomes_a_field_of_the_event(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)

    for duration_ms in (0, 3_600_000):
        query = f"?{STICKY_DURATION}={duration_ms}"
        response = await put(actions, room_id, f"send/m.room.message/t{duration_ms}{query}", TEXT)
        stored = await actions.world.events.get_one(EventID(response.json["event_id"]))
        assert stored is not None
        assert stored.event.pdu["msc4354_sticky"] == {"duration_ms": duration_ms}


@pytest.mark.parametrize("duration", ["-1", "3600001", "1.5", "hour", ""])
@pytest.mark.parametrize("path", ["send/m.room.message/t", "delayed_event/m.room.message/t"])
async def test_invalid_sticky_durations_are_refused(
    actions: Actions, path: str, duration: str
) -> None:
    room_id = await actions.world.create_room(ALICE)
    content = {"delay_ms": 1000, "content": TEXT} if "delayed" in path else TEXT

    response = await put(actions, room_id, f"{path}?{STICKY_DURATION}={duration}", content)

    assert outcome(response) == (400, "M_INVALID_PARAM")


async def test_state_events_cannot_be_sticky(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    body = {"delay_ms": 1000, "content": {}, "state_key": ""}

    delayed = await put(actions, room_id, f"delayed_event/m.x/t?{STICKY_DURATION}=5", body)
    at_once = await put(actions, room_id, f"state/m.x?{STICKY_DURATION}=5", {})

    assert outcome(delayed) == (400, "M_INVALID_PARAM")
    stored = await actions.world.events.get_one(EventID(at_once.json["event_id"]))
    assert stored is not None
    assert "msc4354_sticky" not in stored.event.pdu


async def test_redactions_can_be_sticky(actions: Actions) -> None:
    room_id = await actions.world.create_room(ALICE)
    target = (await actions.world.send(room_id, ALICE)).event_id
    query = f"?{STICKY_DURATION}=60000"

    response = await put(actions, room_id, f"send/m.room.redaction/t{query}", {"redacts": target})

    stored = await actions.world.events.get_one(EventID(response.json["event_id"]))
    assert stored is not None
    assert stored.event.redacts == target
    assert stored.event.pdu["msc4354_sticky"] == {"duration_ms": 60_000}
