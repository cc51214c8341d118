"""What is wrong with the files of all processes together, which none of them sees alone."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from hs.settings.cluster_checks import ClusterFindings, check_cluster
from hs.settings.load import load_settings

SHARED: dict[str, Any] = {
    "server_name": "example.org",
    "database": {"name": "psycopg2", "args": {"dbname": "hs"}},
    "redis": {"enabled": True},
    "worker_replication_secret": "secret",
    "listeners": [
        {"port": 8008, "type": "http", "resources": [{"names": ["client"]}]},
        {
            "port": 9093,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "resources": [{"names": ["replication"]}],
        },
    ],
    "instance_map": {
        "main": {"host": "localhost", "port": 9093},
        "w1": {"host": "localhost", "port": 9094},
    },
    "stream_writers": {"events": ["w1"]},
}


def worker(name: str | None, port: int, resource: str = "replication", **more: Any) -> Any:
    listener = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "resources": [{"names": [resource]}],
    }
    keys = {"worker_app": "synapse.app.generic_worker", "worker_listeners": [listener], **more}
    return keys if name is None else {**keys, "worker_name": name}


W1 = worker("w1", 9094)
W2 = worker("w2", 8083, "media")
OLD_PUSHER = {**worker("w2", 8083, "client"), "worker_app": "synapse.app.pusher"}


@attrs.frozen
class Files:
    """A folder with the files of a server."""

    folder: Path

    def write_log_config(self, name: str, log_file: str) -> str:
        """Write a log configuration in Synapse's form; return its path."""
        handler = {"class": "logging.FileHandler", "filename": log_file}
        config = {"version": 1, "handlers": {"file": handler}, "root": {"handlers": ["file"]}}
        return str(self._write(name, config))

    def check(self, *workers: dict[str, Any], **shared: Any) -> ClusterFindings:
        """Check processes with these files; a value of None removes a key."""
        keys = {key: value for key, value in {**SHARED, **shared}.items() if value is not None}
        main = self._write("homeserver", keys)
        files = [self._write(f"file{n}", keys) for n, keys in enumerate(workers, 1)]
        settings = [load_settings([main], {})]
        settings += [load_settings([main, file], {}) for file in files]
        return check_cluster(settings[0], settings[1:])

    def _write(self, name: str, keys: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(keys))
        return path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_files_that_fit_have_no_findings(files: Files) -> None:
    assert files.check(W1, W2) == ClusterFindings()


MISTAKES: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "writer that no file runs": (
        [W2],
        {},
        (
            "homeserver stream_writers.events: names w1 for writing the stream events, but no "
            "file is that of w1"
        ),
    ),
    "sender that no file runs": (
        [W1],
        {"federation_sender_instances": ["sender1"]},
        (
            "homeserver federation_sender_instances: names sender1 for sending to other servers, "
            "but no file is that of sender1"
        ),
    ),
    "background tasks of nobody": (
        [W1],
        {"run_background_tasks_on": "background1"},
        (
            "homeserver run_background_tasks_on: names background1 for periodic tasks, but no "
            "file is that of background1"
        ),
    ),
    "worker without a name": (
        [W1, worker(None, 8083)],
        {},
        (
            "file2 worker_name: missing, so the process is called synapse.app.generic_worker, as "
            "others without a name"
        ),
    ),
    "name twice": (
        [W1, worker("w1", 9096)],
        {},
        "file2 worker_name: 'w1' is also the name in FOLDER/file1.yaml",
    ),
    "second main process": (
        [W1, {"enable_metrics": False}],
        {},
        "file2 worker_app: missing, so this file would start a second main process",
    ),
    "port twice": (
        [W1, worker("w2", 8008, "client")],
        {},
        "file2 worker_listeners: port 8008 is also opened by main",
    ),
    "main without replication listener": (
        [W1],
        {"listeners": SHARED["listeners"][:1]},
        (
            "homeserver listeners: no listener has the resource `replication`, so workers cannot "
            "reach main"
        ),
    ),
    "main called at another port": (
        [
            {
                **W1,
                "instance_map": {
                    **SHARED["instance_map"],
                    "main": {"host": "localhost", "port": 1},
                },
            }
        ],
        {"instance_map": None, "stream_writers": None},
        (
            "file1 instance_map.main: main is called at localhost:1, but its replication listener "
            "is port 9093"
        ),
    ),
    "main called at another port in the old form": (
        [{**W1, "worker_replication_host": "127.0.0.1", "worker_replication_http_port": 9099}],
        {"instance_map": None, "stream_writers": None},
        (
            "file1 worker_replication_http_port: main is called at 127.0.0.1:9099, but its "
            "replication listener is port 9093"
        ),
    ),
    "writer called at another port": (
        [worker("w1", 9095)],
        {},
        (
            "homeserver instance_map.w1: w1 is called at localhost:9094, but its replication "
            "listener is port 9095"
        ),
    ),
    "main called at an address that it is not bound to": (
        [W1],
        {"instance_map": {**SHARED["instance_map"], "main": {"host": "10.0.0.1", "port": 9093}}},
        (
            "homeserver instance_map.main: main is called at 10.0.0.1:9093, but its listener is "
            "bound to 127.0.0.1"
        ),
    ),
    "lists in different order": (
        [
            W1,
            worker("w2", 9096, stream_writers={"events": ["w2", "w1"]}),
        ],
        {
            "stream_writers": {"events": ["w1", "w2"]},
            "instance_map": {**SHARED["instance_map"], "w2": {"host": "localhost", "port": 9096}},
        },
        (
            "file2 stream_writers.events: w2 takes w2, w1 for writing the stream events, and main "
            "takes w1, w2"
        ),
    ),
    "two pushers that each send everything": (
        [W1, OLD_PUSHER, {**OLD_PUSHER, "worker_name": "w3", "worker_listeners": []}],
        {"start_pushers": False},
        "file3 pusher_instances: w3 takes w3 for sending notifications, and w2 takes w2",
    ),
    "other secret": (
        [{**W1, "worker_replication_secret": "another"}],
        {},
        "file1 worker_replication_secret: w1 has another value than main",
    ),
    "other database": (
        [{**W1, "database": {"name": "psycopg2", "args": {"dbname": "staging"}}}],
        {},
        "file1 database: w1 uses another database than main",
    ),
    "other Redis": (
        [{**W1, "redis": {"enabled": True, "dbid": 7}}],
        {},
        "file1 redis: w1 uses another Redis than main, so they do not hear each other",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_told_with_file_key_and_remedy(name: str, files: Files) -> None:
    workers, shared, expected = MISTAKES[name]
    findings = files.check(*workers, **shared)
    told = [
        f"{problem.origin.file.stem if problem.origin.file else ''} {problem.key}: "
        f"{problem.message}".replace(str(files.folder), "FOLDER")
        for problem in findings.problems
    ]

    assert expected in told
    assert all(problem.remedy for problem in findings.problems)


WARNINGS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "job that nobody has": (
        [W1],
        {"send_federation": False},
        "federation_sender_instances: nobody has the task of sending to other servers",
    ),
    "address of nobody": (
        [W1],
        {"instance_map": {**SHARED["instance_map"], "w9": {"host": "localhost", "port": 9}}},
        "instance_map.w9: no file is that of w9",
    ),
    "other limit": (
        [{**W1, "max_upload_size": "1M"}],
        {},
        "max_upload_size: w1 has another value than main",
    ),
    "worker for clients that others cannot call": (
        [W1, worker("w2", 8083, "client"), worker("w3", 8084, "client")],
        {},
        (
            "instance_map: no entry for w2, w3: not shown by hs topology, and clients that change "
            "process receive members again"
        ),
    ),
    "PID file twice": (
        [{**W1, "worker_pid_file": "/run/hs.pid"}],
        {"pid_file": "/run/hs.pid"},
        "worker_pid_file: /run/hs.pid is also the PID file of main",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_dubious_setting_is_a_warning(name: str, files: Files) -> None:
    workers, shared, expected = WARNINGS[name]
    findings = files.check(*workers, **shared)

    assert findings.problems == []
    assert expected in [f"{notice.key}: {notice.message}" for notice in findings.notices]


def test_log_file_of_several_processes_is_a_warning(files: Files) -> None:
    shared = files.write_log_config("log", "/var/log/hs.log")
    own = {"worker_log_config": files.write_log_config("w2_log", "/var/log/w2.log")}
    findings = files.check(W1, {**W2, **own}, log_config=shared)

    expected = "main, w1 log to /var/log/hs.log; set worker_log_config to a file for each process"
    assert [(notice.key, notice.message) for notice in findings.notices] == [
        ("log_config", expected)
    ]


def test_processes_on_different_hosts_may_use_the_same_port(files: Files) -> None:
    addresses = {
        "main": {"host": "10.0.0.1", "port": 9093},
        "w1": {"host": "10.0.0.2", "port": 9093},
    }
    everywhere = {"port": 9093, "type": "http", "resources": [{"names": ["replication"]}]}
    findings = files.check(
        {**W1, "worker_listeners": [everywhere]}, listeners=[everywhere], instance_map=addresses
    )

    assert findings.problems == []


def test_shipped_example_has_no_findings() -> None:
    folder = Path(__file__).parents[2] / "config" / "workers"
    shared = folder / "shared.yaml"
    workers = [
        load_settings([shared, file], {}) for file in folder.glob("*.yaml") if file != shared
    ]

    assert len(workers) == 11
    assert check_cluster(load_settings([shared], {}), workers) == ClusterFindings()
