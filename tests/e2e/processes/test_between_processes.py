"""Servers whose processes are connected by TLS or Unix sockets, and by a protected Redis."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
import yaml

from tests.support.ledger import CLIENT, Person
from tests.support.servers.certificates import make_certificates
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import ROOT, Cluster, free_ports, make_cluster
from tests.support.servers.redis import RedisMissing, RedisServer, running_redis

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

LIMIT_S = 240.0


@contextmanager
def redis_with(*options: str, password: str = "") -> Iterator[RedisServer]:
    """Run a Redis with more options; skip the test if Redis is not installed."""
    try:
        with running_redis("--bind", "127.0.0.1", *options, password=password) as server:
            yield server
    except RedisMissing as error:
        pytest.skip(str(error))


def change_settings(path: Path, changes: dict[str, Any]) -> None:
    """Change top-level keys of a settings file."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def settings_of(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    return settings


def configure_tls(cluster: Cluster, certificate: Path, key: Path) -> None:
    """Make the processes call each other over TLS."""
    shared = cluster.processes["main"].configs[0]
    instance_map = {
        name: {**address, "tls": True}
        for name, address in settings_of(shared)["instance_map"].items()
    }
    change_settings(
        shared,
        {
            "instance_map": instance_map,
            "tls_certificate_path": str(certificate),
            "tls_private_key_path": str(key),
        },
    )
    for process in cluster.processes.values():
        listeners_key = "listeners" if process.name == "main" else "worker_listeners"
        public, replication = settings_of(process.configs[-1])[listeners_key]
        change_settings(
            process.configs[-1], {listeners_key: [public, {**replication, "tls": True}]}
        )


def configure_unix_sockets(cluster: Cluster) -> None:
    """Make the processes call each other over Unix sockets."""
    shared = cluster.processes["main"].configs[0]
    paths = {name: str(cluster.folder / f"{name}.sock") for name in cluster.processes}
    instance_map = {name: {"path": paths[name]} for name in settings_of(shared)["instance_map"]}
    change_settings(shared, {"instance_map": instance_map})
    for process in cluster.processes.values():
        listeners_key = "listeners" if process.name == "main" else "worker_listeners"
        public, replication = settings_of(process.configs[-1])[listeners_key]
        del replication["port"], replication["bind_addresses"]
        change_settings(
            process.configs[-1],
            {listeners_key: [public, {**replication, "path": paths[process.name]}]},
        )


def shown_by(command: str, cluster: Cluster) -> dict[str, Any]:
    """Return what a command prints with --json."""
    program = [sys.executable, "-c", "from hs.cli.main import run; run()", command, "--json"]
    shared = cluster.processes["main"].configs[0]
    result = subprocess.run(
        [*program, "-c", str(shared)],
        capture_output=True,
        text=True,
        timeout=240,  # on a slow machine
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.stdout, result.stderr
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


@pytest.fixture(params=["tls", pytest.param("sockets", marks=pytest.mark.long)])
def cluster(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cluster]:
    """A server of three processes with encrypted or local connections and a Redis password."""
    (port,) = free_ports(1)
    redis: dict[str, Any] = {"enabled": True, "host": "127.0.0.1", "port": port}
    certificates = make_certificates(tmp_path)
    if request.param == "tls":
        options = ["--tls-port", str(port), "--tls-cert-file", str(certificates.certificate)]
        options += [
            "--tls-key-file",
            str(certificates.key),
            "--tls-ca-cert-file",
            str(certificates.authority),
        ]
        user = ["--user", "hs", "on", ">wonder", "resetchannels", "&hs.test/hs/streams*", "-@all"]
        options += [*user, "+publish", "+subscribe", "+unsubscribe", "+ping", "+client|setname"]
        redis |= {"use_tls": True, "ca_file": str(certificates.authority)}
        redis |= {
            "certificate_file": str(certificates.certificate),
            "private_key_file": str(certificates.key),
        }
        redis |= {"username": "hs", "password": "wonder"}
        # Calls between processes trust the certificate authorities of the system.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        running = redis_with(*options)
    else:
        redis |= {"password": "open sesame"}
        running = redis_with("--port", str(port), password="open sesame")
    with running as server:
        cluster = make_cluster("T2", tmp_path, postgres_server, server, {"redis": redis})
        if request.param == "tls":
            configure_tls(cluster, certificates.certificate, certificates.key)
        else:
            configure_unix_sockets(cluster)
        try:
            cluster.start()
            yield cluster
            cluster.stop()
        finally:
            cluster.kill_all()


async def test_every_process_sees_changes_made_through_another(cluster: Cluster) -> None:
    ports = {name: process.port for name, process in cluster.processes.items()}
    alice = Person([ports["sync1"]], random.Random(1))
    with trio.fail_after(LIMIT_S):
        await alice.register("alice")
        created = await alice.request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
        room = f"{CLIENT}/rooms/{quote(created.json['room_id'])}"
        for number, name in enumerate(ports):
            alice.ports = [ports[name]]
            body = {"msgtype": "m.text", "body": name}
            await alice.request("PUT", f"{room}/send/m.room.message/{number}", body)
            typing = {"typing": number % 2 == 0, "timeout": 60_000}
            await alice.request("PUT", f"{room}/typing/{quote(alice.user_id)}", typing)
        for name in ports:
            alice.ports = [ports[name]]
            answer = (await alice.request("GET", f"{CLIENT}/sync")).json
            (joined,) = answer["rooms"]["join"].values()
            bodies = [event["content"].get("body") for event in joined["timeline"]["events"]]
            assert bodies[-3:] == list(ports)
            assert joined["ephemeral"]["events"][0]["content"] == {"user_ids": [alice.user_id]}
            health = await alice.request("GET", "/health/ready")
            assert health.status == 200
    for process in cluster.processes.values():
        assert "permission" not in process.log.read_text()
    examined = shown_by("doctor", cluster)
    assert examined["ok"], examined
    # sync1 takes no calls, so that it is heard is not waited for.
    found = [step["finding"] for step in examined["steps"] if step["subject"] == "Redis"]
    assert any(finding.startswith("heard main, persister1") for finding in found), found
    shown = shown_by("topology", cluster)
    assert shown["problems"] == []
    assert {*shown["processes"], *shown["unlisted"]} == set(ports)
    for name, report in shown["processes"].items():
        assert (report["instance"], report["state"], report["faults"]) == (name, "ready", [])
    assert "events" in shown["processes"]["persister1"]["writes"]
    assert "persister1" in shown["processes"]["main"]["calls"]
