"""Fixtures that load settings from YAML text, and the settings of a single process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hs.settings.load import load_settings
from hs.settings.settings import Settings
from tests.support.servers.processes import free_ports

Load = Callable[..., Settings]

SINGLE_PROCESS = """
server_name: example.org
report_stats: false
signing_key: "ed25519 a_test {key}"
macaroon_secret_key: secret
bcrypt_rounds: 4
enable_registration: true
enable_registration_without_verification: true
database: {{name: sqlite3, args: {{database: {folder}/homeserver.db}}}}
listeners:
  - port: {port}
    bind_addresses: ['127.0.0.1']
    type: http
    resources: [{{names: [client, federation]}}]
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A function that loads settings from the texts of one or more files."""

    def load_texts(*texts: str) -> Settings:
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text)
            paths.append(path)
        return load_settings(paths, {})

    return load_texts


@pytest.fixture
def single_process(tmp_path: Path) -> str:
    """The configuration file of one process with SQLite and a free port."""
    [port] = free_ports(1)
    return SINGLE_PROCESS.format(key="A" * 43, folder=tmp_path, port=port)
