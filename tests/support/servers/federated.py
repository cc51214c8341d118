"""Servers that reach each other over TLS on this machine, with certificates of an own authority."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.servers.certificates import make_certificates
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    Cluster,
    Layout,
    free_ports,
    make_cluster,
    running,
)
from tests.support.servers.redis import RedisServer


@contextmanager
def federated_servers(
    layouts: dict[str, Layout],
    postgres: PostgresServer | None = None,
    redis: RedisServer | None = None,
    **settings: Any,
) -> Iterator[dict[str, Cluster]]:
    """Run servers and yield them by their names, which are `HOST:PORT`.

    `layouts` maps hosts, `127.0.0.1` and `localhost`, to the layout of processes.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-federation-")))
        certificates = make_certificates(folder)
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
            cluster = make_cluster(layout, place, postgres, redis, more)
            _listen_with_tls(cluster, port)
            servers[f"{host}:{port}"] = stack.enter_context(running(cluster))
        yield servers


def _listen_with_tls(cluster: Cluster, port: int) -> None:
    """Add a listener for other servers to the main process."""
    (config,) = cluster.processes["main"].configs
    content = yaml.safe_load(config.read_text())
    content["listeners"].append(
        {
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": True,
            "resources": [{"names": ["federation"]}],
        }
    )
    config.write_text(yaml.safe_dump(content))
