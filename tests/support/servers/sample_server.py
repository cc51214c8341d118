"""The samples in the documentation of Synapse's workers, started as one server.

Only ports and paths are other ones, and what is no sample there is added: the name of the server,
the database, and a listener of the main process for clients.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import yaml

from tests.support.inputs.worker_samples import SHARED
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    SHARED_SECRET,
    UNLIMITED,
    ServerProcess,
    free_ports,
    fresh_database,
)
from tests.support.servers.redis import RedisServer

_PORT = re.compile(r"\b[89]\d{3}\b")
_MAIN_PORT = 8008


@attrs.define
class SampleServer:
    """A server; `ports` are its ports by those in the samples."""

    folder: Path
    server_name: str
    database: str = ""
    ports: dict[int, int] = attrs.Factory(dict)
    processes: dict[str, ServerProcess] = attrs.Factory(dict)

    def port(self, number: int) -> int:
        """Return the port that replaces one of the samples."""
        if number not in self.ports:
            (self.ports[number],) = free_ports(1)
        return self.ports[number]

    def placed(self, text: str) -> str:
        """Return a sample with ports and paths of this server."""
        text = text.replace("/etc/matrix-synapse", str(self.folder))
        for path in re.findall("worker_log_config: (.*)", text):
            _log_to(Path(path))
        return _PORT.sub(lambda found: str(self.port(int(found[0]))), text)

    def write(self, name: str, text: str) -> Path:
        """Write a file of settings."""
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return path


@contextmanager
def running_samples(
    shared: Sequence[str],
    workers: Sequence[str],
    folder: Path,
    postgres: PostgresServer,
    redis: RedisServer,
    **settings: Any,
) -> Iterator[SampleServer]:
    """Run main and the workers of samples; `settings` are those of the test."""
    server = SampleServer(folder, "hs.test")
    own = server.write("own", yaml.safe_dump(_own(server, postgres, redis) | settings))
    parts = [server.write(f"shared{n}", server.placed(text)) for n, text in enumerate(shared)]
    _add(server, "main", [own, *parts], server.port(_MAIN_PORT))
    for text in map(server.placed, workers):
        name = yaml.safe_load(text)["worker_name"]
        _add(server, name, [own, *parts, server.write(name, text)], 0)
    try:
        for process in server.processes.values():
            process.begin()
        for process in server.processes.values():
            process.wait_ready()
        yield server
        statuses = {p.name: p.stop() for p in reversed(server.processes.values())}
        assert set(statuses.values()) == {0}, statuses
    finally:
        for process in server.processes.values():
            if process.process is not None:
                process.kill()


def _add(server: SampleServer, name: str, configs: list[Path], port: int) -> None:
    server.processes[name] = ServerProcess(name, port, configs, server.folder / f"{name}.log")


def _own(server: SampleServer, postgres: PostgresServer, redis: RedisServer) -> dict[str, Any]:
    """Return the sample of the shared settings, in a configuration that it extends."""
    sample: dict[str, Any] = yaml.safe_load(server.placed(SHARED))
    clients = {
        "port": server.port(_MAIN_PORT),
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "resources": [{"names": ["client", "federation"]}],
    }
    (server.folder / "signing.key").write_text(f"ed25519 a_test {'A' * 43}\n")
    database = fresh_database(postgres)
    server.database = database["args"]["database"]
    return {
        "server_name": server.server_name,
        "report_stats": False,
        "signing_key_path": str(server.folder / "signing.key"),
        "log_config": str(_log_to(server.folder / "log.yaml")),
        "macaroon_secret_key": "macaroon-secret",
        "registration_shared_secret": SHARED_SECRET,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "database": database,
        **UNLIMITED,
        **sample,
        "listeners": [clients, *sample["listeners"]],
        "redis": {**sample["redis"], "path": redis.socket},
    }


def _log_to(path: Path) -> Path:
    """Write a log configuration; standard error is read only until the process is ready."""
    handler = {"class": "logging.FileHandler", "filename": f"{path}.log", "formatter": "precise"}
    config = {
        "version": 1,
        "formatters": {"precise": {"format": "%(asctime)s - %(name)s - %(message)s"}},
        "handlers": {"file": handler},
        "root": {"level": "INFO", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }
    path.write_text(yaml.safe_dump(config))
    return path
