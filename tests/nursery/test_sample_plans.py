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
from tests.support.inputs.worker_samples import (
    BACKGROUND_WORKER,
    GENERIC,
    MEDIA,
    MEDIA_SHARED,
    PERSISTER,
    PERSISTER_SHARED,
    SHARED,
    TWO_PERSISTERS,
    TWO_PUSHERS,
    TWO_SENDERS,
    assigned,
    worker_file,
)

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

# The shared settings, the worker's file, what the worker writes, and its duties.
SAMPLES: dict[str, tuple[str, str, str, str]] = {
    "generic": ("", GENERIC, "", ""),
    "event persister": (PERSISTER_SHARED, PERSISTER, "backfill events", ""),
    "two persisters": (TWO_PERSISTERS, PERSISTER, "backfill events", ""),
    "background": (
        assigned("run_background_tasks_on", "background_worker"),
        BACKGROUND_WORKER,
        "",
        BACKGROUND,
    ),
    "directory": (
        assigned("update_user_directory_from_worker"),
        worker_file("generic_worker", "worker_name"),
        "",
        USER_DIRECTORY,
    ),
    "appservices": (
        assigned("notify_appservices_from_worker"),
        worker_file("generic_worker", "worker_name"),
        "",
        APPSERVICES,
    ),
    "pushers": (TWO_PUSHERS, worker_file("pusher", "pusher_worker2"), "", PUSHERS),
    "only pusher": ("start_pushers: False", worker_file("pusher", "pusher"), "", PUSHERS),
    "old appservice": (
        "notify_appservices: False",
        worker_file("appservice", "appservice"),
        "",
        APPSERVICES,
    ),
    "senders": (
        TWO_SENDERS,
        worker_file("federation_sender", "federation_sender1"),
        "",
        FEDERATION,
    ),
    "media": (MEDIA_SHARED, MEDIA, "", MEDIA_JOBS),
    "old directory": (
        "update_user_directory: false",
        worker_file("user_dir", "user_dir"),
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
