"""Single events of other servers: what is accepted, soft-failed, rejected, refused or waits."""

import msgspec
import orjson
import pytest

from hs.core.errors import Forbidden, NotFound
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.stateres.auth_graph import auth_chain
from hs.services.rooms.receive.event_receiver import Missing, Outcome, Received, Verdict
from hs.services.rooms.store.recent_events import Tails
from hs.services.rooms.store.stored_event import Status, StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import events as event_rows
from hs.storage.rooms import rooms as room_rows
from hs.storage.rooms import timelines
from tests.support.peers import ADMIN, BERT, CORA, DORA, History
from tests.support.rooms import ALICE, World, message, open_world

JOIN = {"membership": "join"}
BAN = {"membership": "ban"}


async def begin(
    world: World, version: str = "11", join_rule: str = "public"
) -> tuple[RoomID, History]:
    """Have Alice join a room of peers, in which Bert is moderator and Cora a member."""
    history = History(version)
    history.begin()
    for user in (BERT, CORA):
        history.add(user, "m.room.member", JOIN, user)
    joined = history.add(ALICE, "m.room.member", JOIN, ALICE)
    history.first = joined.event_id
    assert history.room_id is not None
    received = await world.receiver.seed_room(history.room_id, version, *history.seed())
    assert received == Received((Verdict(joined.event_id, Outcome.ACCEPTED),), Missing())
    return history.room_id, history


async def receive(world: World, *events: Event) -> list[Outcome]:
    """Receive events; tell what became of each."""
    received = await world.receiver.receive(
        events[0].room_id, [event.canonical for event in events], [], {}
    )
    return [verdict.outcome for verdict in received.verdicts]


async def stored(world: World, event: Event) -> StoredEvent:
    """Read an event back from the database."""
    world.events.forget(event.event_id)
    found = await world.events.get_one(event.event_id)
    assert found is not None
    return found


def tampered(event: Event, **changes: object) -> bytes:
    """Give the PDU with other fields than were signed."""
    return orjson.dumps({**event.pdu, **changes}, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("version", ["1", "3", "11", "12"])
async def test_joined_rooms_take_events_of_both_sides(world: World, version: str) -> None:
    room_id, history = await begin(world, version)

    theirs = history.add(CORA, "m.room.message", {"body": "hi"})
    outcomes = await receive(world, theirs)
    ours = await world.send(room_id, ALICE)

    sent = await world.events.get_one(ours.event_id)
    assert outcomes == [Outcome.ACCEPTED]
    assert sent is not None
    assert sent.event.prev_events == (theirs.event_id,)
    assert await world.states.current(room_id) == history.before(history.ends)
    memberships = [row.membership for _, row in world.seen if row.state_key == ALICE]
    assert memberships == ["join"]


async def test_the_state_before_the_join_is_kept_as_outliers(world: World) -> None:
    room_id, history = await begin(world)

    kinds = {row.event_id: row.outlier for _, row in world.seen}

    assert kinds.pop(history.ends[0]) is False
    assert set(kinds.values()) == {True}
    changes = world.seen[-1][1].changes()
    assert len(changes) == len(history.before(history.ends))
    summary = await world.database.read(room_rows.summary, room_id)
    assert summary is not None
    assert summary.joined_members == 4


async def test_what_the_state_before_forbids_is_rejected(world: World) -> None:
    room_id, history = await begin(world)
    topic = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")
    citing = history.draft(BERT, "m.room.message", {"body": "x"})
    before = await world.states.current(room_id)

    assert await receive(world, topic) == [Outcome.REJECTED]

    assert (await stored(world, topic)).status == Status.REJECTED
    assert await world.states.current(room_id) == before
    assert world.seen[-1][1].rejected
    assert world.seen[-1][1].changes() == ()
    assert await receive(world, topic, citing) == [Outcome.KNOWN, Outcome.ACCEPTED]


async def test_events_after_a_rejected_one_are_judged_by_the_state_without_it(
    world: World,
) -> None:
    room_id, history = await begin(world)
    topic = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")
    history.keep(topic, rejected=True)
    after = history.add(BERT, "m.room.message", {"body": "x"})

    assert await receive(world, after, topic) == [Outcome.ACCEPTED, Outcome.REJECTED]

    assert ("m.room.topic", "") not in await world.states.current(room_id)
    sent = await world.send(room_id, ALICE)
    ours = await world.events.get_one(sent.event_id)
    assert ours is not None
    assert ours.event.prev_events == (after.event_id,)


async def test_what_cites_a_rejected_auth_event_is_rejected(world: World) -> None:
    _, history = await begin(world)
    levels = history.draft(CORA, "m.room.power_levels", {"users": {CORA: 100}}, "")
    history.keep(levels)
    topic = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")

    assert await receive(world, levels, topic) == [Outcome.REJECTED, Outcome.REJECTED]


async def test_what_cites_wrong_auth_events_is_rejected(world: World) -> None:
    _, history = await begin(world)
    state = history.before(history.ends)
    wrong = [state["m.room.create", ""], state["m.room.member", BERT]]
    sent = history.draft(CORA, "m.room.message", {"body": "x"}, auth_events=wrong)

    assert await receive(world, sent) == [Outcome.REJECTED]


@pytest.mark.parametrize("version", ["2", "11", "12"])
async def test_who_was_banned_is_soft_failed_from_before_the_ban(
    world: World, version: str
) -> None:
    room_id, history = await begin(world, version)
    start = history.ends[:]
    history.add(ADMIN, "m.room.member", BAN, CORA)
    ban = history.events[history.ends[0]]
    evading = history.add(CORA, "m.room.message", {"body": "x"}, after=start)
    after = history.add(BERT, "m.room.message", {"body": "y"})

    assert await receive(world, ban) == [Outcome.ACCEPTED]
    assert await receive(world, evading) == [Outcome.SOFT_FAILED]

    assert (await stored(world, evading)).status == Status.SOFT_FAILED
    assert world.seen[-1][1].soft_failed
    sent = await world.send(room_id, ALICE)
    ours = await stored(world, (await world.events.get([sent.event_id]))[sent.event_id].event)
    assert ours.event.prev_events == (ban.event_id,)
    # It is not built upon, until somebody else does so.
    assert await receive(world, after) == [Outcome.ACCEPTED]
    async with world.rooms.hold(room_id) as room:
        assert {one.event_id for one in room.head.extremities} == {sent.event_id, after.event_id}


async def test_unsigned_and_foreign_pdus_are_refused(world: World) -> None:
    room_id, history = await begin(world)
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

    assert {verdict.outcome for verdict in received.verdicts} == {Outcome.REFUSED}
    assert len(world.seen) == seen


async def test_an_event_with_a_wrong_content_hash_is_kept_redacted(world: World) -> None:
    room_id, history = await begin(world)
    good = history.add(CORA, "m.room.message", {"body": "x"})

    received = await world.receiver.receive(
        room_id, [tampered(good, content={"body": "forged"})], [], {}
    )

    assert received.verdicts[0] == Verdict(good.event_id, Outcome.ACCEPTED)
    assert (await stored(world, good)).event.content == {}


async def test_missing_events_are_named_and_nothing_is_kept(world: World) -> None:
    _, history = await begin(world)
    first = history.add(CORA, "m.room.message", {"body": "1"})
    second = history.add(CORA, "m.room.message", {"body": "2"})
    third = history.add(CORA, "m.room.message", {"body": "3"})

    received = await world.receiver.receive(
        third.room_id, [third.canonical, second.canonical], [], {}
    )

    assert [one.outcome for one in received.verdicts] == [Outcome.WAITING] * 2
    assert received.missing == Missing((first.event_id,))
    assert await receive(world, third, first, second) == [Outcome.ACCEPTED] * 3


async def test_missing_auth_events_may_be_given_beside(world: World) -> None:
    room_id, history = await begin(world)
    joined = history.add(DORA, "m.room.member", JOIN, DORA)
    state = history.before(history.ends)
    hello = history.add(DORA, "m.room.message", {"body": "x"})

    alone = await world.receiver.receive(room_id, [hello.canonical], [], {})
    given = {hello.event_id: list(state.values())}
    beside = await world.receiver.receive(room_id, [hello.canonical], [joined.canonical], given)

    assert alone.missing == Missing((joined.event_id,), (joined.event_id,))
    assert beside.verdicts == (Verdict(hello.event_id, Outcome.ACCEPTED),)
    # The gap is kept in mind, and what fills it is history.
    assert await world.database.read(event_rows.lacking_among, [joined.event_id]) == [
        joined.event_id
    ]
    assert (event_types.MEMBER, DORA) in await world.states.current(room_id)
    assert await receive(world, joined) == [Outcome.ACCEPTED]
    assert await world.database.read(event_rows.lacking_among, [joined.event_id]) == []
    found = await stored(world, joined)
    assert (found.status, found.snapshot_id is None) == (Status.ACCEPTED, False)
    async with world.rooms.hold(room_id) as room:
        assert {one.event_id for one in room.head.extremities} == {
            history.first,
            hello.event_id,
        }


async def test_an_outlier_that_arrives_takes_its_place(world: World) -> None:
    room_id, history = await begin(world)
    topic = history.add(BERT, "m.room.topic", {"topic": "x"}, "")
    await world.receiver.receive(room_id, [], [topic.canonical], {})
    assert (await stored(world, topic)).status == Status.OUTLIER

    assert await receive(world, topic) == [Outcome.ACCEPTED]

    assert await world.states.current(room_id) == history.before(history.ends)
    assert world.seen[-1][1].event_id == topic.event_id
    assert (await stored(world, topic)).status == Status.ACCEPTED
    after = history.add(BERT, "m.room.message", {"body": "x"})
    assert await receive(world, after) == [Outcome.ACCEPTED]


async def test_a_second_create_event_is_rejected(world: World) -> None:
    room_id, history = await begin(world)
    other = history.draft(
        ADMIN, "m.room.create", {"room_version": "11", "again": True}, "", after=[]
    )

    assert await receive(world, other) == [Outcome.REJECTED]

    assert await world.states.current(room_id) == history.before(history.ends)


async def test_state_of_both_forks_is_sent_as_changes(world: World) -> None:
    room_id, history = await begin(world)
    start = history.ends[:]
    topic = history.add(BERT, "m.room.topic", {"topic": "x"}, "", after=start)
    ban = history.add(ADMIN, "m.room.member", BAN, BERT, after=start)

    await receive(world, topic)
    await receive(world, ban)

    changes = world.seen[-1][1].changes()
    current = await world.states.current(room_id)
    assert current == history.before(history.ends)
    assert {(one[0], one[1]): one[2] for one in changes}.items() >= {
        (event_types.MEMBER, BERT): ban.event_id
    }.items()
    summary = await world.database.read(room_rows.summary, room_id)
    assert summary is not None
    assert (summary.joined_members, summary.topic) == (
        3,
        "x" if (event_types.TOPIC, "") in current else None,
    )


async def test_our_events_bring_forks_together(world: World) -> None:
    room_id, history = await begin(world)
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


@pytest.mark.parametrize("version", ["1", "11"])
async def test_redactions_count_in_whatever_order_they_come(world: World, version: str) -> None:
    room_id, history = await begin(world, version)
    start = history.ends[:]
    spam = history.add(CORA, "m.room.message", {"body": "spam"}, after=start)
    gone = history.add(ADMIN, "m.room.redaction", {}, after=start, redacts=spam.event_id)
    other = history.add(CORA, "m.room.message", {"body": "more"}, after=start)
    later = history.add(ADMIN, "m.room.redaction", {}, after=start, redacts=other.event_id)

    await receive(world, gone)
    await receive(world, spam)
    await receive(world, other)
    await receive(world, later)

    assert (await stored(world, spam)).redacted_by == gone.event_id
    assert (await stored(world, other)).redacted_by == later.event_id
    assert world.seen[-1][1].redaction_applies
    assert room_id == spam.room_id


async def test_who_lacks_power_redacts_nothing(world: World) -> None:
    _, history = await begin(world)
    said = history.add(BERT, "m.room.message", {"body": "x"})
    redaction = history.draft(CORA, "m.room.redaction", {}, redacts=said.event_id)

    await receive(world, said)
    outcomes = await receive(world, redaction)

    assert (await stored(world, said)).redacted_by is None
    assert outcomes in ([Outcome.ACCEPTED], [Outcome.REJECTED])


async def test_unknown_rooms_take_nothing(world: World) -> None:
    with pytest.raises(NotFound):
        await world.receiver.receive(RoomID("!nowhere:one.example"), [b"{}"], [], {})


async def test_a_room_is_not_begun_by_who_may_not_join(world: World) -> None:
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


async def test_a_room_that_was_left_begins_anew(database: Database) -> None:
    async with open_world(database) as world:
        room_id, history = await begin(world)
        await world.leave(room_id, ALICE)
    history.add(BERT, "m.room.topic", {"topic": "meanwhile"}, "")
    history.add(CORA, "m.room.member", {"membership": "leave"}, CORA)
    again = history.add(ALICE, "m.room.member", {**JOIN, "again": True}, ALICE)
    history.first = again.event_id

    async with open_world(database) as world:
        received = await world.receiver.seed_room(room_id, "11", *history.seed())

        assert received.verdicts == (Verdict(again.event_id, Outcome.ACCEPTED),)
        assert await world.states.current(room_id) == history.before(history.ends)
        sent = await world.send(room_id, ALICE)
        ours = await world.events.get_one(sent.event_id)
        assert ours is not None
        assert ours.event.prev_events == (again.event_id,)
        repeated = await world.receiver.seed_room(room_id, "11", *history.seed())
        assert repeated.verdicts[0].outcome == Outcome.KNOWN


async def test_the_index_of_auth_chains_covers_local_and_remote_events(world: World) -> None:
    room_id, history = await begin(world)
    topic = history.add(BERT, "m.room.topic", {"topic": "x"}, "")
    await receive(world, topic)
    await world.set_state(room_id, ALICE, "m.room.member", {**JOIN, "n": 1}, ALICE)
    world_ids = [EventID(row.event_id) for _, row in world.seen if row.state_key is not None]
    events = {key: one.event for key, one in (await world.events.get(world_ids)).items()}
    graph = {key: event.auth_events for key, event in events.items()}

    for event_id in world_ids:
        difference = await world.auth_graph.difference([[event_id], []])

        assert difference == auth_chain([event_id], graph)


async def test_answers_cross_processes() -> None:
    answer = Received(
        (Verdict(EventID("$x"), Outcome.WAITING, "why"), Verdict(None, Outcome.REFUSED)),
        Missing((EventID("$y"),)),
    )

    encoded = msgspec.msgpack.encode(answer)

    assert msgspec.msgpack.decode(encoded, type=Received) == answer


async def test_local_rooms_take_remote_joins(world: World) -> None:
    room_id = await world.create_room(ALICE)
    history = History("11", room_id=room_id)
    state = await world.states.current(room_id)
    found = await world.events.get(
        [EventID(row.event_id) for _, row in world.seen if row.room_id == room_id]
    )
    for one in found.values():
        history.keep(one.event)
    assert history.before(history.ends) == state

    joined = history.add(CORA, "m.room.member", JOIN, CORA)
    said = history.add(CORA, "m.room.message", {"body": "x"})

    assert await receive(world, said, joined) == [Outcome.ACCEPTED] * 2
    await world.append(room_id, message(ALICE))
    assert await world.states.current(room_id) == history.before(history.ends)


async def test_rejected_and_soft_failed_events_reach_no_timeline(world: World) -> None:
    room_id, history = await begin(world)
    tails = Tails(world.feed)
    start = history.ends[:]
    rejected = history.draft(CORA, "m.room.topic", {"topic": "x"}, "")
    ban = history.add(ADMIN, "m.room.member", BAN, CORA, after=start)
    evading = history.add(CORA, "m.room.message", {"body": "x"}, after=start)

    outcomes = [await receive(world, each) for each in (rejected, ban, evading)]

    shown = [ban.event_id]
    arrived = await world.database.read(
        timelines.arrived_between, room_id, 0, world.seen[-1][0], 100
    )
    tail = tails.last(room_id, 1)
    assert outcomes == [[Outcome.REJECTED], [Outcome.ACCEPTED], [Outcome.SOFT_FAILED]]
    assert tail is not None
    assert [entry.event_id for entry in tail] == shown
    assert [one.event_id for one in arrived] == [history.first, *shown]
