"""A large configuration, as deployment tools write it for Synapse, works unchanged."""

import shutil
from pathlib import Path

import pytest
import yaml

from hs.nursery.preflight import check_start
from hs.settings.load import load_settings
from hs.settings.registry import REGISTRY

FOLDER = Path(__file__).parent / "large_server"
WORKERS = sorted(path.name for path in FOLDER.glob("worker.*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files, into whose folder a process may write."""
    return Path(shutil.copytree(FOLDER, tmp_path / "large_server"))


@pytest.mark.parametrize("worker", [None, *WORKERS])
def test_every_process_could_start(
    folder: Path, worker: str | None, restored_logging: None
) -> None:
    files = [folder / "homeserver.yaml", *([folder / worker] if worker else [])]

    settings = load_settings(files, {})
    problems, _ = check_start(settings)

    assert problems == []
    assert [notice for notice in settings.notices if notice.is_warning] == []


def test_empty_values_mean_what_they_mean_in_synapse(folder: Path) -> None:
    settings = load_settings([folder / "homeserver.yaml"], {})

    assert settings.delegates.msisdn is None
    assert settings.server.pid_file is None
    assert settings.tls.tls_certificate_path is None
    assert settings.templates.custom_template_directory is None
    assert settings.redis.password is None
    assert settings.server.default_identity_server is None
    assert settings.email.smtp_user is None
    assert settings.outgoing.http_proxy is None
    assert settings.rooms.auto_join_mxid_localpart is None
    assert settings.workers.secret is None
    assert settings.workers.writers["to_device"] == ("main",)
    assert settings.threepids.allowed_local_3pids is None


def test_files_have_the_size_of_real_ones() -> None:
    keys = yaml.safe_load((FOLDER / "homeserver.yaml").read_text())

    assert len(keys) > 150
    assert len(WORKERS) >= 12
    assert keys.keys() - REGISTRY.keys() <= {"account_validity"}
