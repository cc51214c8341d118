"""Single events of other servers: accepted, soft-failed, rejected, refused or waiting."""

import msgspec
import orjson
import pytest

from hs.core.errors import Forbidden, NotFound
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.stateres.auth_graph import auth_chain
from hs.core.streams import EVENTS
from hs.services.rooms.receive.event_receiver import (
    MissingEvents,
    PduOutcome,
    PduVerdict,
    ReceiveResult,
)
from hs.services.rooms.store.sticky_events import StickyScope
from hs.services.rooms.store.stored_event import EventStatus, StoredEvent
from hs.storage.database import Database, Tx
from hs.storage.rooms import events as event_rows
from hs.storage.rooms import rooms as room_rows
from hs.storage.rooms import timelines
from tests.support.peers import ADMIN, BERT, CORA, DORA, History
from tests.support.receiving import ReceivingWorld, open_receiving
from tests.support.rooms import ALICE, message

JOIN = {"membership": "join"}
BAN = {"membership": "ban"}


async def import_joined_room(
    world: ReceivingWorld, version: str = "11", join_rule: str = "public"
) -> tuple[RoomID, History]:
    """Import a room of peers that Alice joins; Bert is moderator and Cora a member."""
    history = History(version)
    history.begin()
    for user in (BERT, CORA):
        history.add(user, "m.room.member", JOIN, user)
    joined = history.add(ALICE, "m.room.member", JOIN, ALICE)
    history.first = joined.event_id
    assert history.room_id is not None
    received = await world.receiver.seed_room(history.room_id, version, *history.seed())
    assert received == ReceiveResult(
        (PduVerdict(joined.event_id, PduOutcome.ACCEPTED),), MissingEvents()
    )
    return history.room_id, history


async def receive(world: ReceivingWorld, *events: Event) -> list[PduOutcome]:
    """Receive events and return their outcomes."""
    received = await world.receiver.receive(
        events[0].room_id, [event.canonical for event in events], [], {}
    )
    return [verdict.outcome for verdict in received.verdicts]


async def load_stored(world: ReceivingWorld, event: Event) -> StoredEvent:
    """Load an event from the database."""
    world.events.forget(event.event_id)
    found = await world.events.get_one(event.event_id)
    assert found is not None
    return found


def tampered(event: Event, **changes: object) -> bytes:
    """Return the PDU with fields changed after it was signed."""
    return orjson.dumps({**event.pdu, **changes}, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("version", ["1", "3", "11", "12"])
async def test_joined_room_accepts_local_and_remote_events(
    world: ReceivingWorld, version: str
) -> None:
    room_id, history = await import_joined_room(world, version)

    theirs = history.add(CORA, "m.room.message", {"body": "hi"})
    outcomes = await receive(world, theirs)
    ours = await world.send(room_id, ALICE)

    sent = await world.events.get_one(ours.event_id)
    assert outcomes == [PduOutcome.ACCEPTED]
    assert sent is not None
    assert sent.event.prev_events == (theirs.event_id,)
    assert await world.states.current(room_id) == history.before(history.ends)
    memberships = [row.membership for _, row in world.seen if row.state_key == ALICE]
    assert memberships == ["join"]


async def test_imported_state_is_stored_as_outliers(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)

    kinds = {row.event_id: row.outlier for _, row in world.seen}

    assert kinds.pop(history.ends[0]) is False
    assert set(kinds.values()) == {True}
    changes = world.seen[-1][1].changes()
    assert len(changes) == len(history.before(history.ends))
    summary = await world.database.read(room_rows.summary, room_id)
    assert summary is not None
    assert summary.joined_members == 4


async def test_event_forbidden_by_the_state_before_it_is_rejected(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    topic = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")
    citing = history.draft(BERT, "m.room.message", {"body": "x"})
    before = await world.states.current(room_id)

    assert await receive(world, topic) == [PduOutcome.REJECTED]

    assert (await load_stored(world, topic)).status == EventStatus.REJECTED
    assert await world.states.current(room_id) == before
    assert world.seen[-1][1].rejected
    assert world.seen[-1][1].changes() == ()
    assert await receive(world, topic, citing) == [PduOutcome.KNOWN, PduOutcome.ACCEPTED]


async def test_rejected_event_does_not_change_the_state_after_it(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)
    topic = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")
    history.keep(topic, rejected=True)
    after = history.add(BERT, "m.room.message", {"body": "x"})

    assert await receive(world, after, topic) == [PduOutcome.ACCEPTED, PduOutcome.REJECTED]

    assert ("m.room.topic", "") not in await world.states.current(room_id)
    sent = await world.send(room_id, ALICE)
    ours = await world.events.get_one(sent.event_id)
    assert ours is not None
    assert ours.event.prev_events == (after.event_id,)


async def test_event_citing_a_rejected_auth_event_is_rejected(world: ReceivingWorld) -> None:
    _, history = await import_joined_room(world)
    levels = history.draft(CORA, "m.room.power_levels", {"users": {CORA: 100}}, "")
    history.keep(levels)
    topic = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")

    assert await receive(world, levels, topic) == [PduOutcome.REJECTED, PduOutcome.REJECTED]


async def test_event_citing_wrong_auth_events_is_rejected(world: ReceivingWorld) -> None:
    _, history = await import_joined_room(world)
    state = history.before(history.ends)
    wrong = [state["m.room.create", ""], state["m.room.member", BERT]]
    sent = history.draft(CORA, "m.room.message", {"body": "x"}, auth_events=wrong)

    assert await receive(world, sent) == [PduOutcome.REJECTED]


@pytest.mark.parametrize("version", ["2", "11", "12"])
async def test_event_evading_a_ban_is_soft_failed(world: ReceivingWorld, version: str) -> None:
    room_id, history = await import_joined_room(world, version)
    start = history.ends[:]
    history.add(ADMIN, "m.room.member", BAN, CORA)
    ban = history.events[history.ends[0]]
    evading = history.add(CORA, "m.room.message", {"body": "x"}, after=start)
    after = history.add(BERT, "m.room.message", {"body": "y"})

    assert await receive(world, ban) == [PduOutcome.ACCEPTED]
    assert await receive(world, evading) == [PduOutcome.SOFT_FAILED]

    assert (await load_stored(world, evading)).status == EventStatus.SOFT_FAILED
    assert world.seen[-1][1].soft_failed
    sent = await world.send(room_id, ALICE)
    ours = await load_stored(world, (await world.events.get([sent.event_id]))[sent.event_id].event)
    assert ours.event.prev_events == (ban.event_id,)
    # It becomes no forward extremity; an event that cites it is accepted all the same.
    assert await receive(world, after) == [PduOutcome.ACCEPTED]
    async with world.rooms.hold(room_id) as room:
        assert {end.event_id for end in room.head.extremities} == {sent.event_id, after.event_id}


async def test_malformed_unsigned_and_foreign_pdus_are_refused(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    good = history.add(CORA, "m.room.message", {"body": "x"})
    pdus = [
        b"{",
        b"[]",
        tampered(good, depth="deep"),
        tampered(good, signatures={}),
        tampered(good, origin_server_ts=5),
        tampered(good, room_id="!other:one.example"),
    ]
    seen = len(world.seen)

    received = await world.receiver.receive(room_id, pdus, [], {})

    assert {verdict.outcome for verdict in received.verdicts} == {PduOutcome.REFUSED}
    assert len(world.seen) == seen


async def test_event_with_a_wrong_content_hash_is_stored_redacted(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    good = history.add(CORA, "m.room.message", {"body": "x"})

    received = await world.receiver.receive(
        room_id, [tampered(good, content={"body": "forged"})], [], {}
    )

    assert received.verdicts[0] == PduVerdict(good.event_id, PduOutcome.ACCEPTED)
    assert (await load_stored(world, good)).event.content == {}


async def test_event_waiting_for_prev_events_is_reported_and_not_stored(
    world: ReceivingWorld,
) -> None:
    _, history = await import_joined_room(world)
    first = history.add(CORA, "m.room.message", {"body": "1"})
    second = history.add(CORA, "m.room.message", {"body": "2"})
    third = history.add(CORA, "m.room.message", {"body": "3"})

    received = await world.receiver.receive(
        third.room_id, [third.canonical, second.canonical], [], {}
    )

    assert [verdict.outcome for verdict in received.verdicts] == [PduOutcome.WAITING] * 2
    assert received.missing == MissingEvents((first.event_id,))
    assert await receive(world, third, first, second) == [PduOutcome.ACCEPTED] * 3


async def test_missing_auth_events_can_be_passed_as_outliers(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    joined = history.add(DORA, "m.room.member", JOIN, DORA)
    state = history.before(history.ends)
    hello = history.add(DORA, "m.room.message", {"body": "x"})

    without_outlier = await world.receiver.receive(room_id, [hello.canonical], [], {})
    states = {hello.event_id: list(state.values())}
    with_outlier = await world.receiver.receive(
        room_id, [hello.canonical], [joined.canonical], states
    )

    assert without_outlier.missing == MissingEvents((joined.event_id,), (joined.event_id,))
    assert with_outlier.verdicts == (PduVerdict(hello.event_id, PduOutcome.ACCEPTED),)
    # The missing event is a backward extremity; when it arrives, it changes no current state.
    assert await world.database.read(event_rows.backward_extremities_among, [joined.event_id]) == [
        joined.event_id
    ]
    assert (event_types.MEMBER, DORA) in await world.states.current(room_id)
    assert await receive(world, joined) == [PduOutcome.ACCEPTED]
    assert await world.database.read(event_rows.backward_extremities_among, [joined.event_id]) == []
    stored = await load_stored(world, joined)
    assert (stored.status, stored.snapshot_id is None) == (EventStatus.ACCEPTED, False)
    async with world.rooms.hold(room_id) as room:
        assert [end.event_id for end in room.head.extremities] == history.ends


async def test_received_outlier_becomes_accepted(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    topic = history.add(BERT, "m.room.topic", {"topic": "x"}, "")
    await world.receiver.receive(room_id, [], [topic.canonical], {})
    assert (await load_stored(world, topic)).status == EventStatus.OUTLIER

    assert await receive(world, topic) == [PduOutcome.ACCEPTED]

    assert await world.states.current(room_id) == history.before(history.ends)
    assert world.seen[-1][1].event_id == topic.event_id
    assert (await load_stored(world, topic)).status == EventStatus.ACCEPTED
    after = history.add(BERT, "m.room.message", {"body": "x"})
    assert await receive(world, after) == [PduOutcome.ACCEPTED]


async def test_second_create_event_is_rejected(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    second = history.draft(
        ADMIN, "m.room.create", {"room_version": "11", "again": True}, "", after=[]
    )

    assert await receive(world, second) == [PduOutcome.REJECTED]

    assert await world.states.current(room_id) == history.before(history.ends)


async def test_resolved_state_is_published_as_changes(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    topic = history.add(BERT, "m.room.topic", {"topic": "x"}, "", after=start)
    ban = history.add(ADMIN, "m.room.member", BAN, BERT, after=start)

    await receive(world, topic)
    await receive(world, ban)

    changes = world.seen[-1][1].changes()
    current = await world.states.current(room_id)
    assert current == history.before(history.ends)
    assert {(event_type, key): event_id for event_type, key, event_id, _ in changes}.items() >= {
        (event_types.MEMBER, BERT): ban.event_id
    }.items()
    summary = await world.database.read(room_rows.summary, room_id)
    assert summary is not None
    assert (summary.joined_members, summary.topic) == (
        3,
        "x" if (event_types.TOPIC, "") in current else None,
    )


async def test_local_events_cite_the_forward_extremities(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    ends = [
        history.add(CORA, "m.room.message", {"body": str(n)}, after=start).event_id
        for n in range(12)
    ]
    await receive(world, *(history.events[each] for each in ends))

    first = await world.send(room_id, ALICE)
    second = await world.send(room_id, ALICE)

    found = await world.events.get([first.event_id, second.event_id])
    cited = found[first.event_id].event.prev_events
    assert len(cited) == 10
    assert set(cited) < set(ends)
    assert set(found[second.event_id].event.prev_events) == {first.event_id, *ends} - set(cited)


async def test_forks_by_one_server_do_not_keep_others_from_being_cited(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)
    start = history.ends[:]
    own = await world.send(room_id, ALICE)
    berts = history.add(BERT, "m.room.message", {"body": "fork"}, after=start)
    deep = history.add(CORA, "m.room.message", {"body": "deep"}, after=start)
    forks = [
        history.add(CORA, "m.room.message", {"body": str(n)}, after=[deep.event_id])
        for n in range(12)
    ]
    await receive(world, berts, deep, *forks)

    sent = await world.send(room_id, ALICE)

    stored = await world.events.get_one(sent.event_id)
    assert stored is not None
    cited = stored.event.prev_events
    assert len(cited) == 10
    assert {own.event_id, berts.event_id} < set(cited)


async def test_receiving_for_an_unknown_room_raises_not_found(world: ReceivingWorld) -> None:
    with pytest.raises(NotFound):
        await world.receiver.receive(RoomID("!nowhere:one.example"), [b"{}"], [], {})


async def test_import_with_a_forbidden_join_fails(world: ReceivingWorld) -> None:
    history = History("11")
    history.begin(join_rule="invite")
    history.first = history.ends[0]
    joined = history.draft(ALICE, "m.room.member", JOIN, ALICE)
    history.keep(joined)
    history.first = joined.event_id

    with pytest.raises(Forbidden):
        await world.receiver.seed_room(joined.room_id, "11", *history.seed())

    assert world.seen == []
    with pytest.raises(NotFound):
        await world.send(joined.room_id, ALICE)


async def test_room_that_was_left_is_imported_again(database: Database) -> None:
    async with open_receiving(database) as world:
        room_id, history = await import_joined_room(world)
        await world.leave(room_id, ALICE)
    history.add(BERT, "m.room.topic", {"topic": "meanwhile"}, "")
    history.add(CORA, "m.room.member", {"membership": "leave"}, CORA)
    again = history.add(ALICE, "m.room.member", {**JOIN, "again": True}, ALICE)
    history.first = again.event_id

    async with open_receiving(database) as world:
        received = await world.receiver.seed_room(room_id, "11", *history.seed())

        assert received.verdicts == (PduVerdict(again.event_id, PduOutcome.ACCEPTED),)
        assert await world.states.current(room_id) == history.before(history.ends)
        sent = await world.send(room_id, ALICE)
        ours = await world.events.get_one(sent.event_id)
        assert ours is not None
        assert ours.event.prev_events == (again.event_id,)
        repeated = await world.receiver.seed_room(room_id, "11", *history.seed())
        assert repeated.verdicts[0].outcome == PduOutcome.KNOWN


async def test_the_index_of_auth_chains_covers_local_and_remote_events(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)
    topic = history.add(BERT, "m.room.topic", {"topic": "x"}, "")
    await receive(world, topic)
    await world.set_state(room_id, ALICE, "m.room.member", {**JOIN, "n": 1}, ALICE)
    world_ids = [EventID(row.event_id) for _, row in world.seen if row.state_key is not None]
    events = {key: each.event for key, each in (await world.events.get(world_ids)).items()}
    graph = {key: event.auth_events for key, event in events.items()}

    for event_id in world_ids:
        difference = await world.auth_graph.difference([[event_id], []], [])

        assert difference == auth_chain([event_id], graph)


async def test_results_are_encoded_for_rpc() -> None:
    result = ReceiveResult(
        (
            PduVerdict(EventID("$x"), PduOutcome.WAITING, "why"),
            PduVerdict(None, PduOutcome.REFUSED),
        ),
        MissingEvents((EventID("$y"),)),
    )

    encoded = msgspec.msgpack.encode(result)

    assert msgspec.msgpack.decode(encoded, type=ReceiveResult) == result


async def test_local_room_accepts_a_remote_join(world: ReceivingWorld) -> None:
    room_id = await world.create_room(ALICE)
    history = History("11", room_id=room_id)
    state = await world.states.current(room_id)
    stored_events = await world.events.get(
        [EventID(row.event_id) for _, row in world.seen if row.room_id == room_id]
    )
    for stored in stored_events.values():
        history.keep(stored.event)
    assert history.before(history.ends) == state

    joined = history.add(CORA, "m.room.member", JOIN, CORA)
    said = history.add(CORA, "m.room.message", {"body": "x"})

    assert await receive(world, said, joined) == [PduOutcome.ACCEPTED] * 2
    await world.append(room_id, message(ALICE))
    assert await world.states.current(room_id) == history.before(history.ends)


async def test_rejected_and_soft_failed_events_are_in_no_timeline(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    recent_events = world.process.services.core.rooms.tails
    start = history.ends[:]
    rejected = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")
    ban = history.add(ADMIN, "m.room.member", BAN, CORA, after=start)
    evading = history.add(CORA, "m.room.message", {"body": "x"}, after=start)

    outcomes = [await receive(world, each) for each in (rejected, ban, evading)]

    shown = [ban.event_id]
    arrived = await world.database.read(
        timelines.arrived_between, room_id, 0, world.seen[-1][0], 100
    )
    last_events = recent_events.last(room_id, 1)
    assert outcomes == [[PduOutcome.REJECTED], [PduOutcome.ACCEPTED], [PduOutcome.SOFT_FAILED]]
    assert last_events is not None
    assert [entry.event_id for entry in last_events] == shown
    assert [event.event_id for event in arrived] == [history.first, *shown]


async def test_only_accepted_events_of_other_servers_are_sticky(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    world.clock.advance(1000)
    start = history.ends[:]
    rejected = history.draft(CORA, "m.room.topic", {}, "", sticky_ms=60_000)
    accepted = history.add(CORA, "m.x", {"n": 1}, sticky_ms=60_000)
    state = history.add(BERT, "m.room.topic", {"topic": "x"}, "", sticky_ms=60_000)
    ban = history.add(ADMIN, "m.room.member", BAN, CORA)
    evading = history.draft(CORA, "m.x", {"n": 2}, after=start, sticky_ms=60_000)

    for event in (rejected, accepted, state, ban, evading):
        await receive(world, event)
    sticky = world.process.services.core.rooms.sticky
    everywhere = StickyScope(lambda _: True, lambda: [room_id])
    page = await sticky.page(everywhere, None, world.feed.position(EVENTS), 100)
    stored = await world.database.read(list_sticky)

    assert [record.event_id for record in page.records] == [accepted.event_id, state.event_id]
    expires_ms = accepted.origin_server_ts + 60_000
    assert page.records[0].expires_ms == expires_ms
    assert stored == {accepted.event_id: 0, state.event_id: 0, evading.event_id: 1}


async def list_sticky(tx: Tx) -> dict[str, int]:
    rows = await tx.fetch("SELECT event_id, soft_failed FROM sticky_events")
    return {row[0]: row[1] for row in rows}
