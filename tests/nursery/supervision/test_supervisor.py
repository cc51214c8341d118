"""In which order the supervisor starts, replaces and stops processes, and from which program."""

from pathlib import Path

import pytest
import yaml

from hs.nursery.supervision.installed_program import installed_program
from hs.nursery.supervision.process_files import load_all
from hs.nursery.supervision.shape import generate_server, parse_shape
from hs.nursery.supervision.supervisor import restart_order, start_stages, stop_stages
from hs.settings.documents import read_documents
from hs.settings.settings import Settings
from tests.nursery.supervision.test_shape import BASE


def settings_of(folder: Path, shape: str) -> dict[str, Settings]:
    """Return the settings of the processes of a shape."""
    path = folder / "homeserver.yaml"
    path.write_text(yaml.safe_dump(BASE))
    document = read_documents([path])
    server = generate_server(
        parse_shape(shape), document, lambda name: {"path": str(folder / name)}, 8081
    )
    return load_all(server.processes((path,)), ())


def test_processes_start_after_those_that_they_call_and_stop_before_them(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "sync,receipts,event_persister:2")

    persisters = ["event_persister1", "event_persister2"]
    assert start_stages(settings) == [["main"], ["receipts1", *persisters], ["sync1"]]
    assert stop_stages(settings) == [["sync1"], ["main"], ["receipts1", *persisters]]


def test_all_processes_know_a_new_writer_before_it_gets_slots(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "sync,pusher,event_persister:2")
    running = {"main", "sync1", "event_persister1"}

    order = restart_order(settings, running)

    assert order == ["main", "event_persister2", "pusher1", "sync1", "event_persister1"]


def test_upgrade_of_a_package_changes_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    before = installed_program()
    assert installed_program() == before

    (tmp_path / "trio-99.dist-info").mkdir()

    assert installed_program() != before
