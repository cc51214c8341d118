"""The settings of media: which processes serve and clean up media, and where copies are stored."""

import importlib.util
from pathlib import Path

import pytest

from hs.lib.s3 import S3Bucket
from hs.nursery.plan import MEDIA_JOBS, plan_of
from hs.nursery.wiring.media import place_of
from hs.services.media.content_stores import FolderStore
from hs.settings.errors import SettingsError
from hs.settings.sections.media import FolderProviderSettings, S3ProviderSettings, StorageProvider
from tests.settings.conftest import Load, load

__all__ = ["load"]

SHARED = """\
server_name: test
database: {name: psycopg2, args: {database: hs}}
redis: {enabled: true}
worker_replication_secret: secret
enable_registration: false
instance_map: {main: {host: 127.0.0.1, port: 9000}}
enable_media_repo: false
"""
REPOSITORY = "worker_app: synapse.app.media_repository\nworker_name: media1\n"
GENERIC = "worker_app: synapse.app.generic_worker\nworker_name: generic1\n"
GENERIC_WITH_MEDIA = GENERIC + "enable_media_repo: true\n"


@pytest.mark.parametrize(
    ("worker", "serves"),
    [("", False), (REPOSITORY, True), (GENERIC, False), (GENERIC_WITH_MEDIA, True)],
)
def test_media_repository_setting_decides_which_processes_serve(
    load: Load, worker: str, serves: bool
) -> None:
    settings = load(SHARED, worker) if worker else load(SHARED)

    assert settings.workers.serves_media is serves


def test_named_process_runs_media_jobs(load: Load) -> None:
    shared = SHARED + "media_instance_running_background_jobs: media1\n"

    assert MEDIA_JOBS in plan_of(load(shared, REPOSITORY)).duties
    assert MEDIA_JOBS not in plan_of(load(shared)).duties
    assert MEDIA_JOBS not in plan_of(load(shared, GENERIC)).duties


def test_storage_providers_follow_settings() -> None:
    s3 = place_of(StorageProvider(place=S3ProviderSettings(bucket="media"), store_local=True))
    folder = place_of(
        StorageProvider(
            place=FolderProviderSettings(directory=Path("/backup")), store_synchronous=True
        )
    )

    assert isinstance(s3.store, S3Bucket)
    assert (s3.takes(is_local=True), s3.takes(is_local=False)) == (True, False)
    assert isinstance(folder.store, FolderStore)
    assert folder.is_synchronous


def test_missing_library_is_reported_with_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"hs\[s3\]"):
        place_of(StorageProvider(place=S3ProviderSettings(bucket="media")))
