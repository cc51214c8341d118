"""The configuration files that come with hs load, and fit together."""

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
    return [load_settings(files, {}) for files in ([SHARED], *([SHARED, one] for one in WORKERS))]


def test_the_smallest_configuration_loads_without_a_word() -> None:
    assert load_settings([CONFIG / "homeserver.yaml"], {}, strict=True).notices == ()


@pytest.mark.parametrize("path", WORKERS, ids=lambda path: path.stem)
def test_every_worker_loads_without_a_word(path: Path) -> None:
    settings = load_settings([SHARED, path], {}, strict=True)

    assert settings.workers.name == path.stem
    assert settings.notices == ()


def test_every_process_that_the_shared_file_names_has_a_file() -> None:
    named = load_settings([SHARED], {}).workers.others

    assert named <= {path.stem for path in WORKERS}


def test_no_two_processes_on_one_host_share_a_port() -> None:
    ports = [listener.port for one in all_processes() for listener in one.listeners]

    assert len(ports) == len(set(ports))


def test_every_file_is_of_a_process_that_does_something() -> None:
    for settings in all_processes():
        workers = settings.workers
        is_named = workers.name in load_settings([SHARED], {}).workers.others
        offers = {name for listener in settings.listeners for name in listener.names}
        assert is_named or offers - {"replication"}


def test_the_page_about_workers_lists_the_processes_and_where_clients_reach_them() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\d*) ?\|$", PAGE, re.MULTILINE)

    assert len(rows) == 12
    assert dict(rows) == {
        one.workers.name: "".join(
            str(listener.port) for listener in one.listeners if "replication" not in listener.names
        )
        for one in all_processes()
    }


@pytest.mark.parametrize(("upstream", "resource"), [("clients", "client"), ("media", "media")])
def test_the_proxy_on_that_page_knows_every_process_that_serves(
    upstream: str, resource: str
) -> None:
    block = PAGE.partition(f"upstream {upstream} {{")[2].partition("}")[0]

    assert {int(port) for port in re.findall(r"server 127\.0\.0\.1:(\d+);", block)} == {
        listener.port
        for one in all_processes()
        for listener in one.listeners
        if resource in listener.names
    }


def test_their_connections_fit_into_a_postgresql_as_it_is_installed() -> None:
    most = sum(int(one.database.args["cp_max"]) for one in all_processes())

    assert most <= 97
    assert f"(here {most})" in PAGE
