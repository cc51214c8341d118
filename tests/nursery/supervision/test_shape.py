"""Files of workers, generated from a shape."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hs.nursery.plan import Plan, plan_of
from hs.nursery.supervision.process_files import check_together, load_all
from hs.nursery.supervision.server_files import find_processes
from hs.nursery.supervision.shape import KINDS, generate_server, parse_shape, write_files
from hs.settings.documents import read_documents
from hs.settings.errors import SettingsError

BASE: dict[str, Any] = {
    "server_name": "hs.test",
    "database": {"name": "psycopg2", "args": {"database": "hs"}},
    "redis": {"enabled": True},
    "listeners": [
        {"port": 8008, "type": "http", "resources": [{"names": ["client", "federation"]}]}
    ],
}


def plans_of(folder: Path, shape: str, **keys: Any) -> dict[str, Plan]:
    """Return the plans of the processes of a shape."""
    path = folder / "homeserver.yaml"
    path.write_text(yaml.safe_dump({**BASE, **keys}))
    server = generate_server(
        parse_shape(shape),
        read_documents([path]),
        lambda name: {"path": str(folder / f"{name}.sock")},
        8008,
    )
    settings = load_all(server.processes((path,)), ())
    check_together(settings)
    return {name: plan_of(process) for name, process in settings.items()}


def test_whole_server_is_generated_from_one_line(tmp_path: Path) -> None:
    plans = plans_of(
        tmp_path,
        "event_persister:2,sync:2,federation_sender:2,pusher,media,background,user_directory,"
        "appservice,typing,to_device",
    )

    assert plans["event_persister2"].writes == ("backfill", "events") or (
        "events" in plans["event_persister2"].writes
    )
    assert "typing" in plans["typing1"].writes
    assert "to_device" in plans["to_device1"].writes
    assert plans["federation_sender2"].duties == ("federation sender",)
    assert plans["pusher1"].duties == ("pushers",)
    assert plans["background1"].duties == ("background tasks",)
    assert plans["user_directory1"].duties == ("user directory",)
    assert plans["appservice1"].duties == ("application services",)
    assert "media jobs" in plans["media1"].duties
    assert plans["main"].duties == ()
    assert "events" not in plans["main"].writes


def test_ports_that_are_taken_are_left_out(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, "sync:2")

    ports = [listener.port for name in ("sync1", "sync2") for listener in plans[name].listeners]
    assert [port for port in ports if port] == [8009, 8010]


def test_streams_are_shared_out_among_several_writers(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, "receipts:2,to_device:3")

    for stream, names in {
        "receipts": {"receipts1", "receipts2"},
        "to_device": {"to_device1", "to_device2", "to_device3"},
    }.items():
        assert {name for name, plan in plans.items() if stream in plan.writes} == names


def test_processes_may_do_several_things(tmp_path: Path) -> None:
    plans = plans_of(
        tmp_path, "stream_writers=account_data+presence,mixed=sync+event_persister+media:2"
    )
    resources = {name for listener in plans["mixed2"].listeners for name in listener.names}

    assert set(plans) == {"main", "stream_writers1", "mixed1", "mixed2"}
    assert {"account_data", "presence"} <= set(plans["stream_writers1"].writes)
    assert all("events" in plans[name].writes for name in ("mixed1", "mixed2"))
    assert resources == {"replication", "client", "federation", "media"}


def test_kinds_of_the_container_of_synapse_are_accepted(tmp_path: Path) -> None:
    plans = plans_of(
        tmp_path,
        "pusher,user_dir,media_repository,appservice,federation_sender,synchrotron,client_reader,"
        "federation_reader,federation_inbound,event_persister:2,background_worker,event_creator,"
        "account_data,presence,receipts,to_device,device_lists,typing,push_rules,"
        "thread_subscriptions",
    )

    assert plans["user_dir1"].duties == ("user directory",)
    assert plans["background_worker1"].duties == ("background tasks",)
    assert plans["media_repository1"].duties == ("media jobs",)
    assert plans["synchrotron1"].needs_sync


def test_every_kind_can_be_started_alone(tmp_path: Path) -> None:
    for kind in KINDS:
        assert set(plans_of(tmp_path, kind)) == {"main", f"{kind}1"}


def test_addresses_in_the_file_stay(tmp_path: Path) -> None:
    listeners = [
        *BASE["listeners"],
        {"port": 9093, "bind_addresses": ["127.0.0.1"], "resources": [{"names": ["replication"]}]},
    ]
    instances = {"main": {"host": "127.0.0.1", "port": 9093}}

    plans = plans_of(tmp_path, "sync", listeners=listeners, instance_map=instances)

    assert [listener.port for listener in plans["main"].listeners] == [8008, 9093]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("snyc:2", "did you mean sync"),
        ("sync:0", "is not KIND, KIND:NUMBER or NAME=KIND.KIND:NUMBER"),
        ("typing+presence", "has no name"),
        ("writers=typing+typing", "named twice"),
        ("a=push_rules+sync,push_rules", "only one process"),
        ("a=sync+snyc", "did you mean sync"),
        ("sync:2,sync", "named twice"),
        ("background:2", "only one process"),
        ("push_rules:2", "only one process"),
        ("", "no worker is named"),
    ],
)
def test_mistake_in_a_shape_is_explained(shape: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        parse_shape(shape)


def test_file_must_not_decide_what_the_shape_decides(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="contradicts --workers"):
        plans_of(tmp_path, "sync", stream_writers={"events": "sync1"})


def test_written_files_are_a_server_with_the_same_processes(tmp_path: Path) -> None:
    source, target = tmp_path / "homeserver.yaml", tmp_path / "etc"
    source.write_text(yaml.safe_dump({**BASE, "log_config": "log.yaml"}))
    (tmp_path / "log.yaml").write_text("version: 1\n")

    write_files(source, parse_shape("sync:2,event_persister,pusher"), 8081, target)

    processes = find_processes(target)
    plans = {name: plan_of(settings) for name, settings in load_all(processes, ()).items()}
    assert set(plans) == {"main", "sync1", "sync2", "event_persister1", "pusher1"}
    assert plans["pusher1"].duties == ("pushers",)
    keys = yaml.safe_load((target / "homeserver.yaml").read_text())
    assert keys["log_config"] == str(tmp_path / "log.yaml")
    assert keys["signing_key_path"] == str(tmp_path / "hs.test.signing.key")
