"""`hs systemd-units`: units that fit the files of a server."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hs.cli.main import cli
from hs.nursery.supervision.process_files import ProcessFiles
from hs.nursery.systemd_units import Installation, unit_of_supervisor, units_of_processes
from tests.support.source_tree import ROOT

SHARED = """\
server_name: hs.test
media_store_path: /srv/media
pid_file: /run/hs/main.pid
database: {name: psycopg2, args: {database: hs}}
redis: {enabled: true}
instance_map: {main: {host: 127.0.0.1, port: 9093}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of main and two workers."""
    (tmp_path / "homeserver.yaml").write_text(SHARED)
    (tmp_path / "workers").mkdir()
    for name in ("sync1", "sync2"):
        text = f"worker_app: synapse.app.generic_worker\nworker_name: {name}\n"
        (tmp_path / "workers" / f"{name}.yaml").write_text(text)
    return tmp_path


def run(*options: str) -> tuple[int, str, str]:
    """Run the command; return its status, its output, and what it says besides."""
    result = CliRunner().invoke(cli, ["systemd-units", *options])
    return result.exit_code, result.stdout, str(result.exception or result.stderr)


def test_shipped_units_are_those_of_the_usual_places() -> None:
    etc = Path("/etc/hs")
    shared = etc / "homeserver.yaml"
    installed = Installation(
        program=Path("/opt/hs/.venv/bin/hs"), data=Path("/var/lib/hs"), user="hs"
    )

    units = units_of_processes(
        installed,
        [
            ProcessFiles(name="main", files=(shared,)),
            ProcessFiles(name="sync1", files=(shared, etc / "workers" / "sync1.yaml")),
        ],
    )

    shipped = (ROOT / "config" / "systemd").iterdir()
    assert units == {path.name: path.read_text() for path in shipped}


def test_units_name_the_files_and_the_folders_that_they_write_to(folder: Path) -> None:
    status, printed, said = run("--config", str(folder), "--user", "matrix")

    assert status == 0
    assert f"-c {folder}/homeserver.yaml -c {folder}/workers/%i.yaml" in printed
    assert "ReadWritePaths=/var/lib/hs /srv/media /run/hs\n" in printed
    assert "RuntimeDirectory=hs\nRuntimeDirectoryPreserve=yes\n" in printed
    assert "User=matrix\nGroup=matrix\n" in printed
    assert said.endswith("hs.target hs.service hs@sync1.service hs@sync2.service\n")


def test_units_name_folders_of_the_database_sockets_and_logs(folder: Path) -> None:
    log = {"version": 1, "handlers": {"file": {"filename": "/var/log/hs/main.log"}}}
    (folder / "log.yaml").write_text(yaml.safe_dump(log))
    (folder / "homeserver.yaml").write_text(
        "server_name: hs.test\nmedia_store_path: /srv/media\n"
        "database: {name: sqlite3, args: {database: /srv/db/homeserver.db}}\n"
        "listeners: [{path: /srv/sockets/main.sock, resources: [{names: [client]}]}]\n"
        f"log_config: {folder}/log.yaml\n"
    )

    status, printed, _ = run("--config", str(folder / "homeserver.yaml"))

    assert status == 0
    folders = "/srv/media /srv/db /srv/sockets /var/log/hs"
    assert f"ReadWritePaths=/var/lib/hs {folders}\n" in printed


def test_program_in_a_home_directory_can_be_read() -> None:
    program = Path("/home/anna/hs/.venv/bin/hs")
    installed = Installation(program=program, data=Path("/var/lib/hs"), user="hs")

    assert "ProtectHome=read-only\n" in unit_of_supervisor(installed, Path("/etc/hs"))["hs.service"]


def test_unit_may_listen_below_port_1024_if_a_listener_does(folder: Path) -> None:
    _, without, _ = run("--config", str(folder))
    with (folder / "workers" / "sync1.yaml").open("a") as worker:
        worker.write("worker_listeners: [{type: http, port: 443, resources: [{names: [client]}]}]")

    _, printed, _ = run("--config", str(folder))

    assert "CAP_NET_BIND_SERVICE" not in without
    # Both units, because the worker's is a template.
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert printed.count(f"\n{key}=CAP_NET_BIND_SERVICE\n") == 2


def test_path_that_units_cannot_have_is_refused(folder: Path) -> None:
    status, _, said = run("--config", str(folder), "--data-dir", "/srv/matrix data")

    assert status == 1
    assert "'/srv/matrix data' cannot be named in a unit" in said


def test_server_of_one_process_needs_no_template(folder: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()

    status, _, _ = run("--config", str(folder / "homeserver.yaml"), "--write", str(units))

    assert status == 0
    assert {path.name for path in units.iterdir()} == {"hs.target", "hs.service"}


def test_one_unit_supervises_all_processes(folder: Path) -> None:
    status, printed, said = run("--config", str(folder), "--supervise")

    assert status == 0
    assert f"supervise --config {folder} --data-dir /var/lib/hs\n" in printed
    assert "hs@" not in printed
    assert said.endswith("enable --now hs.service\n")


def test_worker_in_another_place_is_refused(folder: Path) -> None:
    (folder / "workers" / "sync2.yaml").rename(folder / "sync2.yaml")

    status, _, said = run("--config", str(folder))

    assert status == 1
    assert "one unit for all workers needs their files as" in said
