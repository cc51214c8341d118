"""Rules of reverse proxies: complete, and accepted by the programs themselves."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
import yaml

from hs.cli.inspect_plan import declared_endpoints
from hs.nursery.proxies.caddy import caddy_config
from hs.nursery.proxies.haproxy import haproxy_config
from hs.nursery.proxies.nginx import nginx_config
from hs.nursery.proxies.proxy_plan import WRITER_PATHS, Affinity, Pool, ProxyPlan, plan_proxy
from hs.nursery.proxies.traefik import traefik_config
from hs.nursery.supervision.process_files import load_all
from hs.nursery.supervision.server_files import find_processes
from hs.nursery.supervision.shape import generate_server, parse_shape
from hs.settings.documents import read_documents
from hs.settings.errors import SettingsError
from hs.settings.settings import Settings
from tests.support.servers.certificates import make_certificates
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import free_ports
from tests.support.servers.proxies import HaproxyMissing, running_haproxy
from tests.support.source_tree import ROOT

LIMIT_S = 20.0
SHAPE = "event_persister:2,sync:3,media,federation_reader,typing"
TOKEN = "-" + "0123456789abcdef" * 4  # as one in 64 of secrets.token_urlsafe begins
NOT_FORWARDED = (
    "/_synapse/admin", "/_synapse/metrics", "/_synapse/replication", "/health", "/metrics",
)  # fmt: skip


def settings_of(folder: Path, shape: str = SHAPE, **keys: Any) -> dict[str, Settings]:
    path = folder / "homeserver.yaml"
    base = {
        "server_name": "hs.test",
        "database": {"name": "psycopg2", "args": {"database": "hs"}},
        "redis": {"enabled": True},
        **keys,
    }
    path.write_text(yaml.safe_dump(base))
    server = generate_server(
        parse_shape(shape),
        read_documents([path]),
        lambda name: {"path": str(folder / f"{name}.sock")},
        8081,
    )
    return load_all(server.processes((path,)), ())


def with_service(folder: Path, token: str = TOKEN, shape: str = SHAPE) -> dict[str, Settings]:
    """Return the settings of a server with an application service."""
    path = folder / "irc.yaml"
    tokens = {"as_token": token, "hs_token": "hs"}
    path.write_text(yaml.safe_dump({"id": "irc", "url": None, "sender_localpart": "irc", **tokens}))
    return settings_of(folder, shape, app_service_config_files=[str(path)])


def pool_for(plan: ProxyPlan, path: str) -> Pool:
    """Return the pool of the first rule that matches a path."""
    for rule in plan.rules:
        if any(re.search(pattern, path) for pattern in rule.paths):
            return rule.pool
    raise AssertionError(f"no rule for {path}")


def names(pool: Pool | None) -> list[str]:
    return [] if pool is None else [backend.name for backend in pool.backends]


def public_paths() -> list[tuple[str, frozenset[str]]]:
    """Return a path of each declared route that clients and other servers use."""
    return [
        (re.sub(r"\{\w+\}", "x", path), endpoint.resources)
        for endpoint in declared_endpoints()
        for path in endpoint.paths
        if not path.startswith(NOT_FORWARDED) and path != "/"  # where a web site may be
    ]


@pytest.mark.parametrize("shape", [SHAPE, "event_persister:2,sync:2"])
def test_every_declared_route_goes_to_processes_that_serve_it(shape: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, shape)
    plan = plan_proxy(settings)
    served = {
        name: frozenset(n for listener in s.opened_listeners for n in listener.names)
        for name, s in settings.items()
    }

    for path, resources in public_paths():
        for name in names(pool_for(plan, path)):
            assert served[name] & resources or "well_known" in resources, (path, name)
            if "media" in resources:
                assert settings[name].workers.serves_media, (path, name)


def test_every_rule_is_of_a_declared_route(tmp_path: Path) -> None:
    plan = plan_proxy(settings_of(tmp_path), ("sync3",), ("sync2",), Affinity.ROOM)
    paths = [path for path, _ in public_paths()]
    patterns = [pattern for rule in plan.rules for pattern in rule.paths]

    for pattern in (*patterns, *WRITER_PATHS.values()):
        assert any(re.search(pattern, path) for path in paths), pattern


def test_internal_paths_are_not_forwarded(tmp_path: Path) -> None:
    plan = plan_proxy(settings_of(tmp_path))

    for path in (*NOT_FORWARDED, "/_synapse/replication/calls", "/_synapse/admin/v1/register"):
        with pytest.raises(AssertionError, match="no rule"):
            pool_for(plan, path)


def test_dedicated_pools_get_nothing_else(tmp_path: Path) -> None:
    plan = plan_proxy(settings_of(tmp_path), ("sync3",), ("sync2",))
    sync = next(rule for rule in plan.rules if rule.subject == "sync")

    assert names(sync.pool) == ["sync1"]
    assert names(sync.initial) == ["sync3"]
    assert names(pool_for(plan, "/_matrix/client/v3/login")) == ["sync2"]
    assert names(pool_for(plan, "/_matrix/client/v3/joined_rooms")) == ["main", "sync1"]


def test_requests_about_a_room_go_to_one_process_if_wanted(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    send = "/_matrix/client/v3/rooms/x/send/m.room.message/1"

    by_room, by_client = plan_proxy(settings, of_rooms=Affinity.ROOM), plan_proxy(settings)

    assert pool_for(by_room, send).affinity is Affinity.ROOM
    assert pool_for(by_room, "/_matrix/client/v3/joined_rooms").affinity is Affinity.CLIENT
    assert pool_for(by_client, send).affinity is Affinity.CLIENT
    assert names(pool_for(by_room, send)) == names(pool_for(by_client, send))


def test_requests_that_write_a_stream_go_to_a_writer_that_serves_clients() -> None:
    settings = load_all(find_processes(ROOT / "config" / "workers"), ())
    path = "/_matrix/client/v3/rooms/x/typing/x"

    assert names(pool_for(plan_proxy(settings), path)) == ["main", "sync1", "sync2"]


def test_unknown_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="sync9: no such process serves clients"):
        plan_proxy(settings_of(tmp_path), ("sync9",))


def test_processes_for_application_services_get_nothing_else(tmp_path: Path) -> None:
    plan = plan_proxy(with_service(tmp_path), appservices=("sync3",))
    (rule,) = [rule for rule in plan.rules if rule.tokens]
    others = [pool for each in plan.rules if each is not rule for pool in (each.pool, each.initial)]

    assert (names(rule.pool), rule.tokens) == (["sync3"], (TOKEN,))
    assert all("sync3" not in names(pool) for pool in others)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no application service is registered"),
        ('with "quotes"', "as_token of irc has characters that not every proxy can match"),
    ],
)
def test_token_that_no_rule_can_match_is_refused(
    token: str | None, message: str, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path) if token is None else with_service(tmp_path, token)

    with pytest.raises(SettingsError, match=message):
        plan_proxy(settings, appservices=("sync3",))


def check(program: str, *arguments: str) -> None:
    """Let a program check its configuration; skip the test if it is not installed."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    checked = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def plan(tmp_path: Path) -> ProxyPlan:
    """A plan with every kind of rule."""
    settings = with_service(tmp_path, shape=f"{SHAPE},client:1")
    return plan_proxy(settings, ("sync3",), ("sync2",), Affinity.ROOM, ("client1",))


@pytest.mark.process
def test_nginx_accepts_its_configuration(tmp_path: Path, plan: ProxyPlan) -> None:
    certificates = make_certificates(tmp_path, "DNS:hs.test")
    text = nginx_config(plan)
    text = re.sub(r"(ssl_certificate) .*", rf"\1 {certificates.certificate};", text)
    text = re.sub(r"(ssl_certificate_key) .*", rf"\1 {certificates.key};", text)
    config = tmp_path / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    logs = "access_log off;" + "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    config.write_text(f"pid {tmp_path}/nginx.pid;\nevents {{}}\nhttp {{\n{logs}\n{text}\n}}\n")

    check("nginx", "-t", "-c", str(config), "-p", str(tmp_path), "-e", "stderr")


@pytest.mark.process
def test_haproxy_accepts_its_configuration(tmp_path: Path, plan: ProxyPlan) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(haproxy_config(plan))

    check("haproxy", "-c", "-f", str(config))


class NamedProcess(BaseHTTPRequestHandler):
    """A process that answers every request with the name of its server."""

    def do_GET(self) -> None:
        assert isinstance(self.server, NamedServer)
        self.send_response(200)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class NamedServer(ThreadingHTTPServer):
    """A server of NamedProcess."""

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), NamedProcess)
        self.body = name.encode()


@contextmanager
def serving_names(*names: str) -> Iterator[dict[str, str]]:
    """Run processes that answer with their names; yield their addresses."""
    servers = {name: NamedServer(name) for name in names}
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers.values()]
    for thread in threads:
        thread.start()
    try:
        yield {name: f"127.0.0.1:{server.server_port}" for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


@contextmanager
def haproxy_before_named_processes(plan: ProxyPlan, folder: Path) -> Iterator[int]:
    """Run HAProxy before processes that answer with their names; yield its port."""
    (port,) = free_ports(1)
    names = {backend.name for pool in plan.pools for backend in pool.backends}
    with serving_names(*names) as addresses:
        config = folder / "haproxy.cfg"
        text = re.sub(
            r"( server (\S+)) \S+", lambda m: f"{m[1]} {addresses[m[2]]}", haproxy_config(plan)
        )
        config.write_text(text.replace("bind :8080", f"bind 127.0.0.1:{port}"))
        try:
            with running_haproxy(config, port):
                yield port
        except HaproxyMissing as error:
            pytest.skip(str(error))


@pytest.mark.process
async def test_haproxy_sends_application_services_to_their_process(tmp_path: Path) -> None:
    plan = plan_proxy(with_service(tmp_path), ("sync2",), appservices=("sync3",))
    path, bearer = "/_matrix/client/v3/rooms/x/state", {"authorization": f"Bearer {TOKEN}"}

    async def process_for(target: str, headers: dict[str, str] | None = None) -> str:
        async with HttpClient(port) as client:
            return (await client.request("GET", target, headers=headers)).body.decode()

    with haproxy_before_named_processes(plan, tmp_path) as port:
        assert await process_for(path, bearer) == "sync3"
        assert await process_for(f"{path}?access_token={TOKEN}") == "sync3"
        assert await process_for("/_matrix/client/v3/sync", bearer) == "sync3"
        assert await process_for("/_matrix/client/v3/sync") == "sync2"
        assert await process_for(path, {"authorization": "Bearer of a user"}) in ("main", "sync1")


class FakeProcess(BaseHTTPRequestHandler):
    """A process that answers health checks only; it dies during a POST or PUT."""

    seen: ClassVar[list[str]]
    waits: ClassVar[threading.Event]
    was_left: ClassVar[threading.Event]

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
            return
        self.waits.set()
        with suppress(ConnectionResetError):
            self.connection.recv(1)
        self.was_left.set()

    def do_POST(self) -> None:
        self.seen.append(self.command)

    def do_PUT(self) -> None:
        self.seen.append(self.command)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def haproxy_before_fake_process(plan: ProxyPlan, folder: Path) -> Iterator[int]:
    """Run HAProxy, with its generated configuration, before a fake process; yield its port."""
    FakeProcess.seen = []
    FakeProcess.waits, FakeProcess.was_left = threading.Event(), threading.Event()
    (port,) = free_ports(1)
    fake = ThreadingHTTPServer(("127.0.0.1", 0), FakeProcess)
    address = f"127.0.0.1:{fake.server_port}"
    text = re.sub(r"( server \S+) \S+", rf"\1 {address}", haproxy_config(plan))
    config = folder / "haproxy.cfg"
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}")
    config.write_text(f"defaults\n    option abortonclose\n{text}")
    thread = threading.Thread(target=fake.serve_forever, args=(0.02,))
    thread.start()
    try:
        with running_haproxy(config, port):
            yield port
    except HaproxyMissing as error:
        pytest.skip(str(error))
    finally:
        fake.shutdown()
        thread.join()
        fake.server_close()


@pytest.mark.process
async def test_haproxy_repeats_put_but_not_post_of_process_that_died(
    tmp_path: Path, plan: ProxyPlan
) -> None:
    with haproxy_before_fake_process(plan, tmp_path) as port:
        for method in ("POST", "PUT"):
            async with HttpClient(port) as client:
                answer = await client.request(method, "/_matrix/client/v3/createRoom", json={})
            assert answer.status == 502

    assert FakeProcess.seen == ["POST", "PUT", "PUT", "PUT", "PUT"]


@pytest.mark.process
async def test_haproxy_with_abortonclose_cancels_request_of_client_that_went_away(
    tmp_path: Path, plan: ProxyPlan
) -> None:
    with haproxy_before_fake_process(plan, tmp_path) as port:
        async with HttpClient(port) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/_matrix/client/v3/sync")
            assert await trio.to_thread.run_sync(FakeProcess.waits.wait, LIMIT_S)
            nursery.cancel_scope.cancel()

        assert await trio.to_thread.run_sync(FakeProcess.was_left.wait, LIMIT_S)


@pytest.mark.process
def test_caddy_accepts_its_configuration(tmp_path: Path, plan: ProxyPlan) -> None:
    config = tmp_path / "Caddyfile"
    config.write_text(caddy_config(plan))

    check("caddy", "adapt", "--adapter", "caddyfile", "--config", str(config))


def test_traefik_gets_a_service_for_each_router(plan: ProxyPlan) -> None:
    document = yaml.safe_load(traefik_config(plan))["http"]

    services = {router["service"] for router in document["routers"].values()}
    assert services == set(document["services"])
    priorities = [router["priority"] for router in document["routers"].values()]
    assert len(set(priorities)) == len(priorities)
