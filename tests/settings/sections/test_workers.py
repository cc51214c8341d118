"""Settings of workers: both dialects, assigned streams and duties, and contradictions."""

import re
from pathlib import Path

import pytest

from hs.settings.sections.workers import STREAMS, WORKER_APPS
from tests.settings.conftest import Load, Refused
from tests.support.inputs import worker_samples
from tests.support.inputs.worker_samples import ADDRESS_OF_MAIN, PERSISTER_SHARED

SHARED = f"""
server_name: example.org
database: {{name: psycopg2, args: {{database: d}}}}
{worker_samples.SHARED}
"""
# Without the files for logs, which do not exist.
GENERIC, PERSISTER = (
    re.sub("worker_log_config: .*\n", "", sample)
    for sample in (worker_samples.GENERIC, worker_samples.PERSISTER)
)


def worker(app: str, name: str = "w", more: str = "") -> str:
    return f"worker_app: {app}\nworker_name: {name}\n{ADDRESS_OF_MAIN}{more}"


def test_sample_of_a_generic_worker_loads(load: Load) -> None:
    settings = load(SHARED, GENERIC)

    assert settings.workers.name == "generic_worker1"
    assert not settings.workers.is_main
    assert (settings.workers.instances["main"].host, settings.workers.instances["main"].port) == (
        "127.0.0.1",
        9093,
    )
    [listener] = settings.listeners
    assert listener.names == {"client", "federation"}


def test_sample_of_an_event_persister_loads_in_every_process(load: Load) -> None:
    main = load(SHARED, PERSISTER_SHARED)
    generic = load(SHARED, PERSISTER_SHARED, GENERIC)
    persister = load(SHARED, PERSISTER_SHARED, PERSISTER)

    assert [settings.workers.writes("events") for settings in (main, generic, persister)] == [
        False,
        False,
        True,
    ]
    assert main.workers.writes("typing")
    assert persister.listeners[0].is_private()


def test_sample_of_a_background_worker_loads(load: Load) -> None:
    settings = load(
        SHARED,
        "run_background_tasks_on: background_worker",
        worker("synapse.app.generic_worker", "background_worker"),
    )

    assert settings.workers.background_tasks == ("background_worker",)
    assert settings.listeners == ()


def test_sample_of_a_media_worker_loads(load: Load) -> None:
    listeners = "worker_listeners: [{type: http, port: 8085, resources: [{names: [media]}]}]"
    media = worker("synapse.app.media_repository", "media_worker", listeners)

    settings = load(SHARED, "enable_media_repo: false", media)

    assert settings.workers.serves_media
    assert settings.workers.media_jobs == ("media_worker",)
    assert not load(SHARED, "enable_media_repo: false").workers.serves_media


def test_empty_secret_is_ignored_with_a_notice(load: Load) -> None:
    settings = load(SHARED)

    assert settings.workers.secret is None
    assert [notice.key for notice in settings.notices] == ["worker_replication_secret"]


def test_instance_map_works_without_old_keys(load: Load) -> None:
    settings = load(
        SHARED,
        "instance_map: {main: {host: m, port: 1}}",
        "worker_app: synapse.app.generic_worker\nworker_name: w",
    )

    assert settings.workers.instances["main"].host == "m"


def test_old_and_new_addresses_of_main_must_agree(load: Load, refused: Refused) -> None:
    equal = "instance_map: {main: {host: 127.0.0.1, port: 9093}}"
    contrary = "instance_map: {main: {host: 127.0.0.1, port: 9999}}"

    by_name = equal.replace("127.0.0.1", "localhost")

    assert load(SHARED, equal, GENERIC).workers.instances["main"].port == 9093
    assert load(SHARED, by_name, GENERIC).workers.instances["main"].host == "localhost"
    assert "contradicts instance_map.main" in refused(SHARED, contrary, GENERIC)


def test_worker_without_the_address_of_main_is_refused(refused: Refused) -> None:
    problems = refused(SHARED, "worker_app: synapse.app.generic_worker\nworker_name: w")

    assert "not told where the main process is" in problems


@pytest.mark.parametrize("app", WORKER_APPS)
def test_every_type_of_worker_loads(load: Load, app: str) -> None:
    off = "\n".join(
        f"{key}: false"
        for key in (
            "start_pushers",
            "send_federation",
            "notify_appservices",
            "update_user_directory",
        )
    )

    assert load(SHARED, off, worker(app)).workers.app == app


def test_unknown_type_of_worker_is_refused_with_the_list(refused: Refused) -> None:
    problems = refused(SHARED, worker("synapse.app.generic_workers"))

    assert "did you mean synapse.app.generic_worker?" in problems
    assert "synapse.app.synchrotron" in problems


def test_app_of_the_main_process_makes_the_main_process(load: Load) -> None:
    assert load("worker_app: synapse.app.homeserver").workers.is_main


def test_worker_without_a_name_is_named_after_its_app(load: Load) -> None:
    settings = load(SHARED, f"worker_app: synapse.app.generic_worker\n{ADDRESS_OF_MAIN}")

    assert settings.workers.name == "synapse.app.generic_worker"


@pytest.mark.parametrize("name", ["main", "master"])
def test_worker_named_main_is_refused(refused: Refused, name: str) -> None:
    assert "main process's name" in refused(SHARED, worker("synapse.app.generic_worker", name))


def test_workers_with_sqlite_are_refused(refused: Refused) -> None:
    problems = refused("server_name: a.org\nredis: {enabled: true}", GENERIC)

    assert "database.name" in problems
    assert "PostgreSQL" in problems


def test_workers_without_redis_are_refused(refused: Refused) -> None:
    problems = refused(SHARED, "redis: {enabled: false}", GENERIC)

    assert "redis.enabled" in problems


def test_old_replication_port_is_ignored_beside_redis(load: Load) -> None:
    settings = load(SHARED, f"{GENERIC}worker_replication_port: 9092\n")

    assert "communicate through Redis" in str([str(notice) for notice in settings.notices])


def test_writer_without_an_address_is_refused(refused: Refused) -> None:
    assert "has no address" in refused(SHARED, "stream_writers: {typing: w}")


def test_writer_without_a_replication_listener_is_refused(refused: Refused) -> None:
    problems = refused(
        SHARED, PERSISTER_SHARED, worker("synapse.app.generic_worker", "event_persister1")
    )

    assert "worker_listeners" in problems


def test_workers_file_without_its_app_is_refused(load: Load, refused: Refused) -> None:
    listeners = "worker_listeners: [{type: http, port: 8085, resources: [{names: [client]}]}]"

    assert "worker_name" in refused(SHARED, f"worker_name: sync1\n{listeners}")
    assert "worker_listeners" in refused(SHARED, listeners)
    assert load(SHARED, "worker_name: main").workers.is_main


@pytest.mark.parametrize("stream", ["push_rules", "pushers", "thread_subscriptions"])
def test_several_writers_of_other_streams_are_refused(refused: Refused, stream: str) -> None:
    assert "exactly one writer" in refused(SHARED, f"stream_writers: {{{stream}: [a, b]}}")


@pytest.mark.parametrize(
    "stream",
    ["events", "typing", "receipts", "presence", "account_data", "device_lists", "to_device"],
)
def test_most_streams_may_have_several_writers(load: Load, stream: str) -> None:
    settings = load(
        SHARED,
        "instance_map: {a: {host: h, port: 1}, b: {path: /run/b.sock}}",
        f"stream_writers: {{{stream}: [a, b], pushers: master}}",
    )

    assert settings.workers.writers[stream] == ("a", "b")
    assert settings.workers.writers["pushers"] == ("main",)
    assert set(settings.workers.writers) == set(STREAMS)


def test_stream_writers_accepts_the_documented_names() -> None:
    text = (Path(__file__).parents[3] / "docs" / "workers.md").read_text()
    (paragraph,) = (part for part in text.split("\n\n") if "`quarantined_media_changes`" in part)

    assert set(STREAMS) <= set(re.findall(r"`(\w+)`", paragraph))
    assert set(STREAMS) >= {
        "events",
        "typing",
        "to_device",
        "account_data",
        "receipts",
        "presence",
        "push_rules",
        "pushers",
        "device_lists",
        "thread_subscriptions",
        "quarantined_media_changes",
    }


@pytest.mark.parametrize("stream", ["quarantined_media_changes"])
def test_first_of_several_writers_is_used_with_a_notice(load: Load, stream: str) -> None:
    settings = load(
        SHARED,
        "instance_map: {a: {host: h, port: 1}, b: {host: h, port: 2}}",
        f"stream_writers: {{{stream}: [b, a]}}",
    )

    assert settings.workers.writers[stream] == ("b",)
    assert "only the first writer, b, is used" in [notice.message for notice in settings.notices]


def test_unknown_stream_is_refused(refused: Refused) -> None:
    assert "did you mean typing?" in refused(SHARED, "stream_writers: {typin: main}")


def test_only_process_has_every_duty(load: Load) -> None:
    workers = load("").workers

    assert workers.others == frozenset()
    assert {
        workers.background_tasks,
        workers.user_directory,
        workers.appservices,
        workers.pushers,
        workers.federation_senders,
        workers.media_jobs,
    } == {("main",)}


DUTIES = [
    ("pushers", "start_pushers", "synapse.app.pusher", "pusher_instances: [w, x]", ("w", "x")),
    (
        "federation_senders",
        "send_federation",
        "synapse.app.federation_sender",
        "federation_sender_instances: [w]",
        ("w",),
    ),
    (
        "appservices",
        "notify_appservices",
        "synapse.app.appservice",
        "notify_appservices_from_worker: w",
        ("w",),
    ),
    (
        "user_directory",
        "update_user_directory",
        "synapse.app.user_dir",
        "update_user_directory_from_worker: w",
        ("w",),
    ),
]


@pytest.mark.parametrize(("duty", "old_key", "app", "new_key", "holders"), DUTIES)
def test_new_key_assigns_a_duty_in_every_process(
    load: Load, duty: str, old_key: str, app: str, new_key: str, holders: tuple[str, ...]
) -> None:
    for text in ("pid_file: x", GENERIC, worker("synapse.app.generic_worker", "w"), worker(app)):
        assert getattr(load(SHARED, new_key, text).workers, duty) == holders


@pytest.mark.parametrize(("duty", "old_key", "app", "new_key", "holders"), DUTIES)
def test_old_switch_assigns_a_duty_to_the_old_app(
    load: Load, duty: str, old_key: str, app: str, new_key: str, holders: tuple[str, ...]
) -> None:
    off = f"{old_key}: false"

    assert getattr(load(SHARED, off).workers, duty) == ()
    assert getattr(load(SHARED, off, worker(app)).workers, duty) == ("w",)
    assert getattr(load(SHARED, off, GENERIC).workers, duty) == ()


@pytest.mark.parametrize(("duty", "old_key", "app", "new_key", "holders"), DUTIES)
def test_contradictions_about_a_duty_are_refused(
    refused: Refused, duty: str, old_key: str, app: str, new_key: str, holders: tuple[str, ...]
) -> None:
    assert f"{old_key}: false" in refused(SHARED, worker(app))
    assert "is not named here" in refused(SHARED, new_key, worker(app, "stranger"))


def test_worker_does_not_use_the_pid_file_of_the_main_process(load: Load) -> None:
    shared = f"{SHARED}\npid_file: /run/main.pid"

    assert str(load(shared).server.pid_file) == "/run/main.pid"
    assert load(shared, GENERIC).server.pid_file is None
    named = load(shared, f"{GENERIC}\nworker_pid_file: /run/w.pid")
    assert str(named.server.pid_file) == "/run/w.pid"
