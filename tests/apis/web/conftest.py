"""Fixtures of the tests of the web server."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and its certificate for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert, specs = (folder / name for name in ("key.pem", "cert.pem", "both.pem"))
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subprocess.run(
        [*command.split(), "-subj", "/CN=localhost", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    specs.write_bytes(key.read_bytes() + cert.read_bytes())
    return specs
