"""Synapse, another homeserver, installed once per version and started as a peer of tests.

HS_SYNAPSE_PYTHON is the Python of an environment that contains it. Without that, Synapse is
installed from the package registry into a folder that is kept for later runs.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import yaml

from tests.support.servers.certificates import Certificates
from tests.support.servers.processes import MANY, UNLIMITED, free_ports

VERSION = "1.163.2"
INSTALL_LIMIT_S = 900.0
START_LIMIT_S = 120.0
STOP_LIMIT_S = 30.0


class SynapseMissing(Exception):
    """Synapse is not available and cannot be installed."""


def synapse_python() -> Path:
    """Return the Python of an environment with Synapse.

    Raises: SynapseMissing.
    """
    if "HS_SYNAPSE_PYTHON" in os.environ:
        python = Path(os.environ["HS_SYNAPSE_PYTHON"])
        _check(python)
        return python
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hs-tests"
    folder = cache / f"synapse-{VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # An environment cannot be moved, so an incomplete one is removed again.
        try:
            _install(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    python = folder / "bin" / "python"
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "-q", f"matrix-synapse=={VERSION}"])
        _check(python)
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        raise SynapseMissing(f"Synapse cannot be installed: {output[-1000:]}") from error


def _check(python: Path) -> None:
    try:
        _run([str(python), "-c", "import synapse"])
    except (OSError, subprocess.SubprocessError) as error:
        raise SynapseMissing(f"HS_SYNAPSE_PYTHON: {python} cannot import synapse") from error


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)


@attrs.define
class SynapseServer:
    """A Synapse of one process; `port` serves clients."""

    name: str
    port: int
    python: Path
    config: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the process and wait until it answers clients."""
        command = [str(self.python), "-m", "synapse.app.homeserver", "-c", str(self.config)]
        with self.log.open("ab") as log_file:
            self.process = subprocess.Popen(
                command, stdout=log_file, stderr=log_file, cwd=self.config.parent
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Synapse did not start:\n{self.tail()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.port}/_matrix/client/versions"
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text("utf-8", "replace")[-4000:] if self.log.exists() else ""

    def stop(self) -> None:
        """Stop the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        finally:
            process.kill()
            process.wait()


@contextmanager
def running_synapse(host: str, certificates: Certificates, python: Path) -> Iterator[SynapseServer]:
    """Run a Synapse whose name is a host and a port of this machine, with SQLite."""
    with tempfile.TemporaryDirectory(prefix="hs-synapse-") as place:
        folder = Path(place)
        federation_port, client_port = free_ports(2)
        name = f"{host}:{federation_port}"
        settings = _settings(name, folder, client_port, federation_port, certificates)
        config = folder / "homeserver.yaml"
        config.write_text(yaml.safe_dump(settings))
        server = SynapseServer(name, client_port, python, config, folder / "synapse.log")
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _settings(
    name: str, folder: Path, client_port: int, federation_port: int, certificates: Certificates
) -> dict[str, Any]:
    # Any 32 bytes are a key, and two servers need different ones.
    seed = "".join(random.SystemRandom().choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef", k=43))
    (folder / "signing.key").write_text(f"ed25519 a_synapse {seed[:42]}A\n")
    level = os.environ.get("HS_TEST_LOG_LEVEL", "INFO")
    log_config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"format": "%(asctime)s %(levelname)s %(name)s - %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"level": level, "handlers": ["console"]},
    }
    (folder / "log.yaml").write_text(yaml.safe_dump(log_config))
    return {
        "server_name": name,
        "report_stats": False,
        "pid_file": str(folder / "synapse.pid"),
        "log_config": str(folder / "log.yaml"),
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "macaroon_secret_key": "macaroon-secret",
        "form_secret": "form-secret",
        "registration_shared_secret": "registration-secret",
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "allow_public_rooms_over_federation": True,
        "room_list_publication_rules": [{"action": "allow"}],
        "bcrypt_rounds": 4,
        "database": {
            "name": "sqlite3",
            "args": {"database": str(folder / "homeserver.db")},
        },
        "listeners": [
            _listener(client_port, "client"),
            {**_listener(federation_port, "federation"), "tls": True},
        ],
        "tls_certificate_path": str(certificates.certificate),
        "tls_private_key_path": str(certificates.key),
        "federation_custom_ca_list": [str(certificates.authority)],
        "ip_range_blacklist": [],
        "trusted_key_servers": [],
        "federation": SHORT_RETRIES,
        "rc_federation": {"reject_limit": 10_000, "concurrent": 100},
        "rc_key_requests": MANY,
        "rc_media_create": MANY,
        "rc_third_party_invite": MANY,
        **UNLIMITED,
    }


# In milliseconds: servers that tests have stopped are asked again soon.
SHORT_RETRIES = {
    "destination_min_retry_interval": 500,
    "destination_max_retry_interval": 1000,
}


def _listener(port: int, resource: str) -> dict[str, Any]:
    return {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "resources": [{"names": [resource]}],
    }
