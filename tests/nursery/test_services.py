"""The services as the server composes them, with several processes in one trio run."""

from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio

from hs.apis.web.route import collect
from hs.cli.inspect_plan import declared_endpoints
from hs.core.events import event_types
from hs.core.ids import EventID, UserID
from hs.core.stream_def import StreamDef
from hs.core.streams import EVENTS, PRESENCE, RECEIPTS, TYPING
from hs.repl.feed import Feed
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.federation import FederationSettings
from hs.settings.sections.listeners import Listener, Resource
from hs.settings.sections.previews import PreviewSettings
from hs.settings.sections.proposals import Experiments, ProposalSettings
from hs.storage.database import Database
from tests.support.composition import (
    SERVER,
    SETTINGS,
    ComposedProcess,
    Neighbourhood,
    open_process,
    worker_settings,
)

ALICE = UserID(f"@alice:{SERVER}")
FIRST_EVENTS = [
    Draft(event_types.CREATE, ALICE, {}, ""),
    Draft(event_types.MEMBER, ALICE, {"membership": "join"}, ALICE),
]
HELLO = Draft(event_types.MESSAGE, ALICE, {"msgtype": "m.text", "body": "hello"})


async def create_and_send(process: ComposedProcess) -> EventID:
    """Create a room and send a message; return its event ID."""
    appender = process.services.core.rooms.appender
    created = await appender.create("11", FIRST_EVENTS)
    sent = await appender.append(created[0].room_id, [HELLO])
    return sent[0].event_id


async def test_single_process_stores_appended_event(database: Database) -> None:
    async with open_process(database) as process:
        event_id = await create_and_send(process)

        events = await process.services.core.rooms.events.get([event_id])

    assert events[event_id].event.content == HELLO.content


async def test_process_without_clients_builds_no_sync(database: Database) -> None:
    neighbourhood = Neighbourhood()
    main = worker_settings(SETTINGS, "main", events=("writer",))
    writer = worker_settings(SETTINGS, "writer", events=("writer",))
    internal = Listener(port=9101, resources=(Resource(names=("replication",)),))
    writer = attrs.evolve(writer, listeners=(internal,))
    async with (
        open_process(database, writer, neighbours=neighbourhood) as owner,
        open_process(database, main, neighbours=neighbourhood) as process,
    ):
        event_id = await create_and_send(process)
        stored = await process.services.core.rooms.events.get([event_id])
        room_id = stored[event_id].event.room_id
        tails = [each.services.core.rooms.tails for each in (owner, process)]

        assert process.services.planned_sync is not None
        assert owner.services.planned_sync is None
        assert [tail.last(room_id, 1) is None for tail in tails] == [True, False]


@pytest.mark.parametrize(
    ("stream", "writers", "are_read"),
    [
        (RECEIPTS, ("w1",), False),
        (RECEIPTS, ("w1", "w2"), False),
        (TYPING, ("w1",), False),
        (TYPING, ("w1", "w2"), True),
        (PRESENCE, ("w1",), False),
        (PRESENCE, ("w1", "w2"), True),
    ],
)
async def test_ephemeral_rows_go_to_processes_that_clients_ask_and_to_other_writers(
    stream: StreamDef[Any], writers: tuple[str, ...], are_read: bool, database: Database
) -> None:
    neighbourhood = Neighbourhood()
    streams = {"events": ("persister",), stream.name: writers}
    names = ("main", "persister", "w1", "w2")
    internal = Listener(port=9101, resources=(Resource(names=("replication",)),))
    async with AsyncExitStack() as stack:
        feeds: dict[str, Feed] = {}
        for name in names:
            settings = worker_settings(SETTINGS, name, **streams)
            if name != "main":
                settings = attrs.evolve(settings, listeners=(internal,))
            opened = open_process(database, settings, neighbours=neighbourhood)
            feeds[name] = (await stack.enter_async_context(opened)).base.feed

    assert [name for name in names if feeds[name].needs_plain(stream)] == (
        ["main", *writers] if are_read else ["main"]
    )
    assert not feeds["persister"].takes_plain.is_set()


async def test_process_appends_through_writer_of_events(
    database: Database,
) -> None:
    neighbourhood = Neighbourhood()
    main = worker_settings(SETTINGS, "main", events=("writer",))
    writer = worker_settings(SETTINGS, "writer", events=("writer",))
    async with (
        open_process(database, writer, neighbours=neighbourhood) as owner,
        open_process(database, main, neighbours=neighbourhood) as process,
    ):
        event_id = await create_and_send(process)

        position = owner.base.feed.position(EVENTS)
        with trio.fail_after(60):
            assert await process.base.feed.wait_for_position(EVENTS, position, 50)
        events = await process.services.core.rooms.events.get([event_id])

    assert process.services.core.rooms.owner is None
    assert events[event_id].event.content == HELLO.content


async def test_every_declared_endpoint_is_served(database: Database) -> None:
    experiments = Experiments(thread_subscriptions=True)
    settings = attrs.evolve(
        SETTINGS,
        proposals=ProposalSettings(experimental_features=experiments),
        previews=PreviewSettings(url_preview_enabled=True),
        federation=FederationSettings(federation_whitelist_endpoint_enabled=True),
    )
    async with open_process(database, settings) as process:
        parts = process.services.parts
        served = collect(*(endpoint for part in parts for endpoint in part.endpoints))

    declared = {endpoint.name for endpoint in declared_endpoints()}
    unserved = declared - {endpoint.name for endpoint in served}
    # Those of the process itself; see `nursery_tree`.
    assert {name.partition(".")[0] for name in unserved} == {
        "HealthApi",
        "MetricsApi",
        "ReplicationApi",
    }
