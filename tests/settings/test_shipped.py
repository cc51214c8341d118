"""The configuration files shipped with hs load and fit together."""

import re
from pathlib import Path

import pytest

from hs.settings.load import load_settings
from hs.settings.settings import Settings

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "config"
SHARED = CONFIG / "workers" / "shared.yaml"
WORKERS = sorted(path for path in (CONFIG / "workers").glob("*.yaml") if path != SHARED)
PAGE = (ROOT / "docs" / "workers.md").read_text("utf-8")


def all_processes() -> list[Settings]:
    return [load_settings(files, {}) for files in ([SHARED], *([SHARED, path] for path in WORKERS))]


def test_smallest_configuration_loads_without_notices() -> None:
    assert load_settings([CONFIG / "homeserver.yaml"], {}, strict=True).notices == ()


@pytest.mark.parametrize("path", WORKERS, ids=lambda path: path.stem)
def test_every_worker_loads_without_notices(path: Path) -> None:
    settings = load_settings([SHARED, path], {}, strict=True)

    assert settings.workers.name == path.stem
    assert settings.notices == ()


def test_every_worker_named_in_the_shared_file_has_a_file() -> None:
    named = load_settings([SHARED], {}).workers.others

    assert named <= {path.stem for path in WORKERS}


def test_no_two_processes_on_one_host_share_a_port() -> None:
    ports = [listener.port for process in all_processes() for listener in process.listeners]

    assert len(ports) == len(set(ports))


def test_every_process_has_a_duty_or_serves_clients() -> None:
    for settings in all_processes():
        workers = settings.workers
        is_named = workers.name in load_settings([SHARED], {}).workers.others
        offers = {name for listener in settings.listeners for name in listener.names}
        assert is_named or offers - {"replication"}


def test_documentation_lists_the_processes_with_their_ports() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\d*) ?\|$", PAGE, re.MULTILINE)

    assert len(rows) == 12
    assert dict(rows) == {
        process.workers.name: "".join(
            str(listener.port)
            for listener in process.listeners
            if "replication" not in listener.names
        )
        for process in all_processes()
    }


def test_connections_of_all_processes_fit_into_a_default_postgresql() -> None:
    connections = sum(int(process.database.args["cp_max"]) for process in all_processes())

    assert connections <= 97
    assert f"(here {connections})" in PAGE
