"""The configuration files that come with hs load, and fit together."""

from pathlib import Path

import pytest

from hs.settings.load import load_settings

CONFIG = Path(__file__).parent.parent.parent / "config"
SHARED = CONFIG / "workers" / "shared.yaml"
WORKERS = sorted(path for path in (CONFIG / "workers").glob("*.yaml") if path != SHARED)


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
    ports = [
        listener.port
        for files in ([SHARED], *([SHARED, path] for path in WORKERS))
        for listener in load_settings(files, {}).listeners
    ]

    assert len(ports) == len(set(ports))
