"""The files of all processes in a directory."""

from pathlib import Path

import pytest

from hs.nursery.supervision.process_files import check_together, load_all
from hs.nursery.supervision.server_files import find_processes
from hs.settings.errors import SettingsError
from tests.support.source_tree import ROOT


def test_shipped_example_has_twelve_processes() -> None:
    processes = find_processes(ROOT / "config" / "workers")

    assert len(processes) == 12
    assert processes[0].name == "main"
    settings = load_all(processes, ())
    assert set(settings) == {process.name for process in processes}
    assert check_together(settings) == []


def test_files_of_workers_may_be_in_a_subdirectory(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "homeserver.yaml").write_text("server_name: hs.test\n")
    (tmp_path / "log.yaml").write_text("version: 1\n")
    (tmp_path / "main.yaml").write_text("worker_app: synapse.app.homeserver\n")
    worker = tmp_path / "workers" / "sync1.yaml"
    worker.write_text("worker_app: synapse.app.generic_worker\nworker_name: sync1\n")

    main, sync = find_processes(tmp_path)

    assert main.files == (tmp_path / "homeserver.yaml", tmp_path / "main.yaml")
    assert (sync.name, sync.files) == ("sync1", (tmp_path / "homeserver.yaml", worker))


def test_file_of_a_worker_without_worker_app_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "homeserver.yaml").write_text("server_name: hs.test\n")
    (tmp_path / "sync1.yaml").write_text("worker_ap: x\nworker_name: sync1\n")

    with pytest.raises(SettingsError, match=r"sync1\.yaml:2: worker_name: .* without worker_app"):
        find_processes(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "homeserver.yaml").write_text(
        "server_name: hs.test\ndatabase: {name: psycopg2, args: {database: hs}}\n"
        "redis: {enabled: true}\ninstance_map: {main: {host: 127.0.0.1, port: 9093}}\n"
    )
    for name in ("a", "b"):
        text = "worker_app: synapse.app.generic_worker\nworker_name: sync1\n"
        (tmp_path / f"{name}.yaml").write_text(text)

    with pytest.raises(SettingsError, match="also the name in"):
        load_all(find_processes(tmp_path), ())


def test_directory_without_a_shared_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"contains no homeserver\.yaml"):
        find_processes(tmp_path)


def test_problems_of_all_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "homeserver.yaml").write_text("server_name: hs.test\n")
    for name in ("a", "b"):
        text = f"worker_app: synapse.app.{name}\nworker_name: {name}\n"
        (tmp_path / f"{name}.yaml").write_text(text)

    with pytest.raises(SettingsError) as caught:
        load_all(find_processes(tmp_path), ())

    assert {problem.origin.file for problem in caught.value.problems} >= {
        tmp_path / "a.yaml",
        tmp_path / "b.yaml",
    }
