"""One server of ours and one Synapse that reach each other over TLS on this machine."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import yaml

from tests.support.servers.certificates import make_certificates
from tests.support.servers.forwarding import forwarded
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    Cluster,
    Layout,
    ServerProcess,
    free_ports,
    make_cluster,
    running,
)
from tests.support.servers.redis import RedisServer
from tests.support.servers.synapse import SHORT_RETRIES, SynapseServer, running_synapse

SENDER = "sender1"  # the process of layout T2 that sends to other servers


@attrs.frozen
class Peer:
    """A server as its clients see it: its name, and the ports that serve clients."""

    name: str
    ports: Sequence[int]

    def any_url(self) -> str:
        """Return the URL of a random port."""
        return f"http://127.0.0.1:{random.choice(self.ports)}"


@attrs.frozen
class MixedFederation:
    """The two servers."""

    cluster: Cluster
    synapse_server: SynapseServer
    hs: Peer
    synapse: Peer

    def logs(self) -> str:
        """Return the ends of all logs."""
        return f"{self.cluster.logs()}\n--- Synapse\n{self.synapse_server.tail()}"


@contextmanager
def mixed_federation(
    layout: Layout,
    python: Path,
    postgres: PostgresServer | None,
    redis: RedisServer | None,
) -> Iterator[MixedFederation]:
    """Run both servers; requests of Synapse reach any of our processes that runs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-mixed-")))
        certificates = make_certificates(folder)
        (port,) = free_ports(1)
        place = folder / "hs"
        place.mkdir()
        settings = {
            "server_name": f"localhost:{port}",
            "tls_certificate_path": str(certificates.certificate),
            "tls_private_key_path": str(certificates.key),
            "federation_custom_ca_list": [str(certificates.authority)],
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "allow_public_rooms_over_federation": True,
            "federation": SHORT_RETRIES,
        }
        workers = []
        if layout == "T2":
            workers = [SENDER]
            settings["federation_sender_instances"] = [SENDER]
        cluster = make_cluster(layout, place, postgres, redis, settings, workers)
        tls_ports = free_ports(len(cluster.processes))
        for process, tls_port in zip(cluster.processes.values(), tls_ports, strict=True):
            _listen_with_tls(process, tls_port)
        stack.enter_context(forwarded(port, tls_ports))
        stack.enter_context(running(cluster))
        synapse = stack.enter_context(running_synapse("127.0.0.1", certificates, python))
        yield MixedFederation(
            cluster,
            synapse,
            Peer(f"localhost:{port}", cluster.ports),
            Peer(synapse.name, [synapse.port]),
        )


def _listen_with_tls(process: ServerProcess, port: int) -> None:
    """Add a listener for other servers to a process."""
    config = process.configs[-1]
    content = yaml.safe_load(config.read_text())
    listeners = content["listeners" if process.name == "main" else "worker_listeners"]
    listeners.append(
        {
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": True,
            "resources": [{"names": ["federation"]}],
        }
    )
    config.write_text(yaml.safe_dump(content))
