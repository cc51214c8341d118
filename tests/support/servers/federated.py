"""Servers that reach each other over TLS on this machine, with certificates of an own authority."""

import base64
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import yaml

from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, parse_signing_keys
from hs.core.signing.requests import authorization_header
from tests.support.servers.certificates import make_certificates
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    Cluster,
    Layout,
    free_ports,
    make_cluster,
    running,
)
from tests.support.servers.redis import RedisServer
from tests.support.web import WebResponse

KEY_FILE = "signing.key"


@contextmanager
def federated_servers(
    layouts: dict[str, Layout],
    postgres: PostgresServer | None = None,
    redis: RedisServer | None = None,
    **settings: Any,
) -> Iterator[dict[str, Cluster]]:
    """Run servers and yield them by their names, which are `HOST:PORT`.

    `layouts` maps hosts, `localhost` and addresses 127.0.0.x, to the layout of processes. Of T2,
    the generic worker answers other servers and the events writer sends to them.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-federation-")))
        more_names = [f"IP:{host}" for host in layouts if host not in {"localhost", "127.0.0.1"}]
        certificates = make_certificates(folder, *more_names)
        shared = {
            "tls_certificate_path": str(certificates.certificate),
            "tls_private_key_path": str(certificates.key),
            "federation_custom_ca_list": [str(certificates.authority)],
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            **settings,
        }
        servers = {}
        for number, (host, layout) in enumerate(layouts.items()):
            (port,) = free_ports(1)
            place = folder / str(number)
            place.mkdir()
            more = {**shared, "server_name": f"{host}:{port}"}
            if layout == "T2":
                more["federation_sender_instances"] = ["persister1"]
            cluster = make_cluster(layout, place, postgres, redis, more)
            (place / KEY_FILE).write_text(f"ed25519 a_test {_seed(host)}\n")
            _listen_with_tls(cluster, host, port)
            servers[f"{host}:{port}"] = stack.enter_context(running(cluster))
        yield servers


def _seed(host: str) -> str:
    return base64.b64encode(hashlib.sha256(host.encode()).digest()).decode().rstrip("=")


def _listen_with_tls(cluster: Cluster, host: str, port: int) -> None:
    """Add a listener for other servers to the process that answers them."""
    name, key = ("sync1", "worker_listeners") if cluster.layout == "T2" else ("main", "listeners")
    config = cluster.processes[name].configs[-1]
    content = yaml.safe_load(config.read_text())
    content[key].append(
        {
            "port": port,
            "bind_addresses": ["127.0.0.1" if host == "localhost" else host],
            "type": "http",
            "tls": True,
            "resources": [{"names": ["federation"]}],
        }
    )
    config.write_text(yaml.safe_dump(content))


async def ask_as(
    servers: dict[str, Cluster], asking: str, asked: str, path: str, *variables: str
) -> WebResponse:
    """Send a GET request that a server signs to another one, at any of its processes.

    `path` has a `{}` for each variable.
    """
    keys = parse_signing_keys((servers[asking].folder / KEY_FILE).read_text())
    uri = path.format(*(quote(variable, safe="") for variable in variables))
    signer = Signer(ServerName(asking), keys[0])
    signed = authorization_header(signer, asked, "GET", uri, None)
    port = servers[asked].any_port()
    async with HttpClient(port) as client:
        return await client.get(uri, headers={"authorization": signed})


async def forward_extremities(
    servers: dict[str, Cluster], asked: str, room_id: str, user_id: str
) -> set[str]:
    """Return the forward extremities of a room; the user is a member of another server.

    The template of a leave event cites them.
    """
    asking = user_id.partition(":")[2]
    path = "/_matrix/federation/v1/make_leave/{}/{}"
    answer = await ask_as(servers, asking, asked, path, room_id, user_id)
    assert answer.status == 200, answer.body
    return set(orjson.loads(answer.body)["event"]["prev_events"])
