"""The samples in the documentation of Synapse's workers, as they stand, have plans.

Only the folder of the log configurations is another one, and what is no sample there is added: the
name of the server, the database and a log configuration.
"""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hs.cli.main import cli
from hs.nursery.plan import (
    APPSERVICES,
    BACKGROUND,
    FEDERATION,
    MEDIA_JOBS,
    PUSHERS,
    USER_DIRECTORY,
    Plan,
    plan_of,
)
from hs.settings.load import load_settings

OWN = """
server_name: example.org
report_stats: false
database: {name: psycopg2, args: {database: synapse, cp_min: 5, cp_max: 10}}
"""
LOG_CONFIG = """
version: 1
formatters:
    precise: {format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(message)s'}
handlers:
    console: {class: logging.StreamHandler, formatter: precise}
root: {level: INFO, handlers: [console]}
disable_existing_loggers: false
"""
SHARED = """
# extend the existing `listeners` section. This defines the ports that the
# main process will listen on.
listeners:
  # The HTTP replication port
  - port: 9093
    bind_address: '127.0.0.1'
    type: http
    resources:
     - names: [replication]

# Add a random shared secret to authenticate traffic.
worker_replication_secret: ""

redis:
    enabled: true
"""
ADDRESS_OF_MAIN = """
# The replication listener on the main synapse process.
worker_replication_host: 127.0.0.1
worker_replication_http_port: 9093
"""
GENERIC = f"""
worker_app: synapse.app.generic_worker
worker_name: generic_worker1
{ADDRESS_OF_MAIN}
worker_main_http_uri: http://localhost:8008/

worker_listeners:
 - type: http
   port: 8083
   resources:
     - names: [client, federation]

worker_log_config: /etc/matrix-synapse/generic-worker-log.yaml
"""
PERSISTER_SHARED = """
instance_map:
    event_persister1:
        host: localhost
        port: 8034

stream_writers:
    events: event_persister1
"""
PERSISTER = f"""
worker_app: synapse.app.generic_worker
worker_name: event_persister1
{ADDRESS_OF_MAIN}
worker_listeners:
  - type: http
    port: 8034
    resources:
      - names: [replication]

  # Enable listener if this stream writer handles endpoints for the `typing` or
  # `to_device` streams. Uses a different port to the `replication` listener to
  # avoid exposing the `replication` listener publicly.
  #
  - type: http
    port: 8035
    resources:
      - names: [client]

worker_log_config: /etc/matrix-synapse/event-persister-log.yaml
"""
TWO_PERSISTERS = """
instance_map:
    event_persister1: {host: localhost, port: 8034}
    event_persister2: {host: localhost, port: 8036}
stream_writers:
    events:
        - event_persister1
        - event_persister2
"""
BACKGROUND_WORKER = f"""
worker_app: synapse.app.generic_worker
worker_name: background_worker
{ADDRESS_OF_MAIN}
worker_log_config: /etc/matrix-synapse/background-worker-log.yaml
"""
MEDIA_SHARED = """
enable_media_repo: False
media_instance_running_background_jobs: "media_worker"
"""
MEDIA = f"""
worker_app: synapse.app.media_repository
worker_name: media_worker
{ADDRESS_OF_MAIN}
worker_listeners:
 - type: http
   port: 8085
   resources:
     - names: [media]

worker_log_config: /etc/matrix-synapse/media-worker-log.yaml
"""


def worker(app: str, name: str) -> str:
    """Return the file of a worker without listeners."""
    return f"worker_app: synapse.app.{app}\nworker_name: {name}\n{ADDRESS_OF_MAIN}"


def named(key: str, name: str = "worker_name") -> str:
    """Return a shared setting that names a generic worker."""
    return f"{key}: {name}"


# The shared settings, the worker's file, what the worker writes, and its duties.
SAMPLES: dict[str, tuple[str, str, str, str]] = {
    "generic": ("", GENERIC, "", ""),
    "event persister": (PERSISTER_SHARED, PERSISTER, "backfill events", ""),
    "two persisters": (TWO_PERSISTERS, PERSISTER, "backfill events", ""),
    "background": (
        named("run_background_tasks_on", "background_worker"),
        BACKGROUND_WORKER,
        "",
        BACKGROUND,
    ),
    "directory": (
        named("update_user_directory_from_worker"),
        worker("generic_worker", "worker_name"),
        "",
        USER_DIRECTORY,
    ),
    "appservices": (
        named("notify_appservices_from_worker"),
        worker("generic_worker", "worker_name"),
        "",
        APPSERVICES,
    ),
    "pushers": (
        "start_pushers: False\npusher_instances:\n    - pusher_worker1\n    - pusher_worker2",
        worker("pusher", "pusher_worker2"),
        "",
        PUSHERS,
    ),
    "only pusher": ("start_pushers: False", worker("pusher", "pusher"), "", PUSHERS),
    "old appservice": (
        "notify_appservices: False",
        worker("appservice", "appservice"),
        "",
        APPSERVICES,
    ),
    "senders": (
        "send_federation: False\nfederation_sender_instances: [federation_sender1, sender2]",
        worker("federation_sender", "federation_sender1"),
        "",
        FEDERATION,
    ),
    "media": (MEDIA_SHARED, MEDIA, "", MEDIA_JOBS),
    "old directory": (
        "update_user_directory: false",
        worker("user_dir", "user_dir"),
        "",
        USER_DIRECTORY,
    ),
    **{
        app: ("", GENERIC.replace("generic_worker\n", f"{app}\n"), "", "")
        for app in (
            "client_reader",
            "event_creator",
            "federation_reader",
            "frontend_proxy",
            "synchrotron",
        )
    },
}


def write(folder: Path, name: str) -> list[Path]:
    """Write the files of a sample; the last one is that of the worker."""
    shared, own, _, _ = SAMPLES[name]
    own = own.replace("/etc/matrix-synapse", str(folder))
    for log_config in re.findall("worker_log_config: (.*)", own):
        Path(log_config).write_text(LOG_CONFIG)
    paths = []
    for number, text in enumerate((OWN + SHARED, shared, own)):
        path = folder / f"{number}.yaml"
        path.write_text(text)
        paths.append(path)
    return paths


def plan(files: list[Path]) -> Plan:
    """Return the plan of the process with these files."""
    return plan_of(load_settings(files, {}))


@pytest.mark.parametrize("name", SAMPLES)
def test_worker_of_a_sample_does_what_the_main_process_leaves_to_it(
    tmp_path: Path, name: str
) -> None:
    _, _, written, duty = SAMPLES[name]
    *shared, own = write(tmp_path, name)

    main, process = plan(shared), plan([*shared, own])

    assert (main.instance, main.shared, process.shared) == ("main", True, True)
    assert {*process.writes} - {"caches", "federation", "rates"} >= {*written.split()}
    assert process.duties == ((duty,) if duty else ())
    assert duty not in main.duties
    assert not {*written.split()} & {*main.writes}


@pytest.mark.parametrize("name", SAMPLES)
def test_plan_command_prints_the_worker_of_a_sample(tmp_path: Path, name: str) -> None:
    options = [word for path in write(tmp_path, name) for word in ("--config", str(path))]

    result = CliRunner().invoke(cli, ["plan", *options])

    assert result.exit_code == 0, result.output
    assert "Redis and HTTP" in result.stdout
