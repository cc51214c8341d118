"""`hs ctl`: processes in the background, by their PID files."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.servers.processes import make_cluster
from tests.support.servers.supervised import PROGRAM, environment, is_running

pytestmark = pytest.mark.process
WAIT_S = 240.0


def ctl(action: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [*PROGRAM, "ctl", action, *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(), timeout=WAIT_S
    )


def test_process_is_started_shown_restarted_and_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "hs.pid"
    cluster = make_cluster("T0", tmp_path, None, None, {"pid_file": str(pid_file)})
    config = str(cluster.processes["main"].configs[0])
    assert ctl("status", config).returncode == 3

    started = ctl("start", config)
    assert started.returncode == 0, started.stderr
    first = int(pid_file.read_text())
    shown = ctl("status", config)
    assert (shown.returncode, shown.stdout) == (0, f"main: running, process {first}\n")
    assert "runs already" in ctl("start", config).stdout

    assert ctl("restart", config).returncode == 0
    second = int(pid_file.read_text())
    assert not is_running(first)

    stopped = ctl("stop", config)
    assert (stopped.returncode, stopped.stdout) == (0, "main: stopped\n")
    assert not is_running(second)
    assert not pid_file.exists()


def test_process_that_does_not_start_is_reported(tmp_path: Path) -> None:
    settings = {"pid_file": str(tmp_path / "hs.pid")}
    cluster = make_cluster("T0", tmp_path, None, None, settings)
    config = cluster.processes["main"].configs[0]
    (tmp_path / "homeserver.db").mkdir()

    started = ctl("start", str(config))

    assert started.returncode == 1
    assert "main: did not start" in started.stderr
    assert "homeserver.db" in started.stderr


def test_missing_pid_files_of_all_processes_are_told_together(tmp_path: Path) -> None:
    cluster = make_cluster("T0", tmp_path, None, None, {})
    config = cluster.processes["main"].configs[0]
    workers = tmp_path / "workers"
    workers.mkdir()
    shared = yaml.safe_load(config.read_text())
    shared |= {"database": {"name": "psycopg2", "args": {"database": "hs"}}}
    instances = {"main": {"host": "127.0.0.1", "port": 1}}
    shared |= {"redis": {"enabled": True}, "instance_map": instances}
    config.write_text(yaml.safe_dump(shared))
    (workers / "sync1.yaml").write_text(
        "worker_app: synapse.app.generic_worker\nworker_name: sync1\n"
    )

    started = ctl("start", str(config), "-a", str(workers))

    assert started.returncode == 2
    assert "needs it to find main" in started.stderr
    assert "needs it to find sync1" in started.stderr
    assert os.listdir(workers) == ["sync1.yaml"]
