"""The plans of processes, for different settings."""

import pytest
from click.testing import CliRunner

from hs.cli.main import cli
from hs.nursery.nursery_tree import listener_specs
from hs.nursery.plan import (
    APPSERVICES,
    BACKGROUND,
    FEDERATION,
    MEDIA_JOBS,
    PUSHERS,
    USER_DIRECTORY,
    plan_of,
    tree_of,
)
from hs.settings.sections.workers import STREAMS
from tests.nursery.conftest import Load

SHARED = """
server_name: example.org
worker_replication_secret: replication-secret
redis: {enabled: true}
database: {name: psycopg2, args: {database: d, host: db.example.org}}
listeners:
  - {port: 9093, bind_address: 127.0.0.1, resources: [{names: [replication]}]}
instance_map:
  main: {host: 127.0.0.1, port: 9093}
  w: {host: 127.0.0.1, port: 9094}
  x: {path: /run/x.sock}
"""
PUBLIC = "{port: 8083, bind_address: 127.0.0.1, resources: [{names: [client, federation]}]}"
INTERNAL = "{port: 9094, bind_address: 127.0.0.1, resources: [{names: [replication]}]}"
GENERIC = "worker_app: synapse.app.generic_worker\nworker_name: "
WORKER = f"{GENERIC}w\nworker_listeners: [{PUBLIC}, {INTERNAL}]"
BY_SOCKET = "{path: /run/x.sock, resources: [{names: [replication]}]}"
SECOND_WORKER = f"{GENERIC}x\nworker_listeners: [{PUBLIC}, {BY_SOCKET}]"
ALL_STREAMS = {*STREAMS, "backfill", "pushes"}
DUTIES = {BACKGROUND, USER_DIRECTORY, APPSERVICES, PUSHERS, FEDERATION, MEDIA_JOBS}


def test_only_process_has_all_streams_and_duties(load: Load) -> None:
    plan = plan_of(load("server_name: example.org"))

    assert plan.instance == "main"
    assert set(plan.writes) == ALL_STREAMS
    assert set(plan.duties) == DUTIES
    assert plan.migrates
    assert not plan.shared
    assert [listener.port for listener in plan.listeners] == [8008]


def test_manhole_is_not_opened_and_is_reported(load: Load) -> None:
    settings = load(
        "server_name: example.org\n"
        "listeners: [{port: 9000, type: manhole}, {port: 8008, resources: [{names: [client]}]}]"
    )

    assert [listener.port for listener in plan_of(settings).listeners] == [8008]
    assert {spec.port for spec in listener_specs(settings)} == {8008}
    notices = [notice.message for notice in settings.notices if notice.key == "listeners.0"]
    assert notices == ["is not opened: this server has no manhole, an interactive Python shell"]


def test_generic_worker_has_no_streams_and_duties(load: Load) -> None:
    plan = plan_of(load(SHARED, WORKER))

    assert plan.instance == "w"
    assert plan.writes == ()
    assert plan.duties == ()
    assert not plan.migrates
    assert plan.shared
    assert [listener.port for listener in plan.listeners] == [8083, 9094]


@pytest.mark.parametrize(
    ("names", "more", "answers_requests", "needs_sync"),
    [
        ("client, metrics", "", True, True),
        ("federation", "", True, False),
        ("replication, metrics, health", "", False, False),
        ("replication", "run_background_tasks_on: w\n", False, True),
    ],
)
def test_only_processes_that_are_asked_need_what_answers(
    load: Load, names: str, more: str, answers_requests: bool, needs_sync: bool
) -> None:
    worker = WORKER.replace("names: [client, federation]", f"names: [{names}]")

    plan = plan_of(load(SHARED + more, worker))

    assert plan.answers_requests is answers_requests
    assert plan.needs_sync is needs_sync


def test_enabled_redis_implies_other_processes(load: Load) -> None:
    assert plan_of(load(SHARED)).shared


@pytest.mark.parametrize("stream", STREAMS)
def test_stream_has_the_writer_that_the_settings_name(load: Load, stream: str) -> None:
    setting = f"stream_writers: {{{stream}: w}}"

    main, worker, second_worker = (
        plan_of(load(SHARED, setting, *more)) for more in ((), (WORKER,), (SECOND_WORKER,))
    )

    moved = {stream} | {"events": {"backfill"}, "unread": {"pushes"}}.get(stream, set())
    assert set(worker.writes) == moved
    assert set(main.writes) == ALL_STREAMS - moved
    assert second_worker.writes == ()


def test_all_writers_of_events_write_them(load: Load) -> None:
    setting = "stream_writers: {events: [w, x]}"

    for more in (WORKER, SECOND_WORKER):
        assert plan_of(load(SHARED, setting, more)).writes == ("backfill", "events")
    assert "events" not in plan_of(load(SHARED, setting)).writes


@pytest.mark.parametrize(
    ("duty", "setting"),
    [
        (BACKGROUND, "run_background_tasks_on: w"),
        (USER_DIRECTORY, "update_user_directory_from_worker: w"),
        (APPSERVICES, "notify_appservices_from_worker: w"),
        (PUSHERS, "pusher_instances: [w]"),
        (FEDERATION, "federation_sender_instances: [w]"),
        (MEDIA_JOBS, "media_instance_running_background_jobs: w"),
    ],
)
def test_duty_has_the_holder_that_the_settings_name(load: Load, duty: str, setting: str) -> None:
    media = "\nenable_media_repo: true" if duty == MEDIA_JOBS else ""

    main, worker, second_worker = (
        plan_of(load(SHARED, setting + media, *more)) for more in ((), (WORKER,), (SECOND_WORKER,))
    )

    assert worker.duties == (duty,)
    assert set(main.duties) == DUTIES - {duty}
    assert second_worker.duties == ()


@pytest.mark.parametrize(
    ("duty", "switch", "app"),
    [
        (PUSHERS, "start_pushers", "synapse.app.pusher"),
        (FEDERATION, "send_federation", "synapse.app.federation_sender"),
        (APPSERVICES, "notify_appservices", "synapse.app.appservice"),
        (USER_DIRECTORY, "update_user_directory", "synapse.app.user_dir"),
    ],
)
def test_older_dialect_assigns_a_duty_by_switch_and_app(
    load: Load, duty: str, switch: str, app: str
) -> None:
    off = f"{switch}: false"

    worker = plan_of(load(SHARED, off, f"worker_app: {app}\nworker_name: w"))
    main = plan_of(load(SHARED, off))

    assert (worker.app, worker.duties) == (app, (duty,))
    assert set(main.duties) == DUTIES - {duty}


def test_only_the_main_process_migrates_the_schema(load: Load) -> None:
    plans = [plan_of(load(SHARED, *more)) for more in ((), (WORKER,), (SECOND_WORKER,))]

    assert [plan.migrates for plan in plans] == [True, False, False]


def test_tree_of_the_only_process(load: Load) -> None:
    settings = load("server_name: example.org\ndatabase: {args: {database: /var/lib/hs/hs.db}}")

    tree = tree_of(plan_of(settings), settings)

    labels = [line.strip(" └") for line in tree.splitlines()]
    assert labels == [
        "main (synapse.app.homeserver)",
        "signals",
        "asyncio bridge",
        "database: sqlite /var/lib/hs/hs.db (migrated here)",
        f"replication: within this process; writes {', '.join(sorted(ALL_STREAMS))}",
        (
            "duties: background tasks, user directory, application services, pushers, "
            "federation sender, media jobs"
        ),
        "listener [::1]:8008, 127.0.0.1:8008: client, federation",
    ]


def test_tree_of_a_worker(load: Load) -> None:
    settings = load(SHARED, SECOND_WORKER)

    lines = tree_of(plan_of(settings), settings).splitlines()

    assert lines[0] == "x (synapse.app.generic_worker)"
    assert "replication: Redis and HTTP; writes none" in lines[4]
    assert "duties: none" in lines[5]
    assert [line.strip(" └") for line in lines[6:]] == [
        "listener 127.0.0.1:8083: client, federation",
        "listener /run/x.sock: replication",
    ]
    # Each line is nested in the one above.
    depths = [len(line) - len(line.lstrip()) for line in lines[:7]]
    assert depths == sorted(set(depths))


def test_tree_of_a_process_without_listeners_says_so(load: Load) -> None:
    settings = load(SHARED, f"{GENERIC}quiet")

    assert tree_of(plan_of(settings), settings).splitlines()[-1].strip() == "└ no listeners"


def test_plan_command_prints_the_tree(load: Load) -> None:
    settings = load(SHARED, WORKER)
    options = [part for path in settings.files for part in ("-c", str(path))]

    result = CliRunner().invoke(cli, ["plan", *options])

    assert result.exit_code == 0
    assert result.output.strip().endswith(tree_of(plan_of(settings), settings))
