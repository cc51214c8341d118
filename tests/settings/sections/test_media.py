"""Settings of the media repository."""

from pathlib import Path

import pytest

from hs.settings.errors import SettingsError
from hs.settings.sections.media import DEFAULT_SIZES, FolderProviderSettings, S3ProviderSettings
from tests.settings.conftest import Load


def test_media_folder_defaults_to_the_directory_of_the_configuration(load: Load) -> None:
    settings = load("")

    assert settings.media.media_store_path == settings.folder / "media_store"
    assert settings.media.thumbnail_sizes == DEFAULT_SIZES
    assert settings.media.max_upload_size == 50 * 1024**2


def test_storage_providers_are_read_in_the_format_of_synapse(load: Load) -> None:
    settings = load(
        """\
media_storage_providers:
  - module: s3_storage_provider.S3StorageProviderBackend
    store_local: true
    store_synchronous: true
    config: {bucket: media, endpoint_url: "http://127.0.0.1:9000", region_name: here}
  - module: file_system
    store_remote: true
    config: {directory: /backup}
"""
    )

    s3, folder = settings.media.media_storage_providers
    assert isinstance(s3.place, S3ProviderSettings)
    assert isinstance(folder.place, FolderProviderSettings)
    assert (s3.place.bucket, s3.place.region_name) == ("media", "here")
    assert (s3.store_local, s3.store_remote, s3.store_synchronous) == (True, False, True)
    assert str(folder.place.directory) == "/backup"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("thumbnail_sizes: [{width: 10}]", "thumbnail_sizes.0"),
        ("thumbnail_sizes: [{width: 10, height: 10, method: squeeze}]", "thumbnail_sizes.0.method"),
        ("media_upload_limits: [{time_period: 1d}]", "media_upload_limits.0"),
        (
            "media_storage_providers: [{module: floppy}]",
            "media_storage_providers.0.module",
        ),
        (
            "media_storage_providers: [{module: file_system}]",
            "media_storage_providers.0.config",
        ),
        (
            "media_storage_providers: [{module: s3_storage_provider.S3StorageProviderBackend}]",
            "media_storage_providers.0.config",
        ),
    ],
)
def test_mistake_is_reported_with_its_key(load: Load, text: str, key: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(text)

    assert [problem.key for problem in error.value.problems] == [key]


def test_legacy_key_of_a_backup_folder_becomes_a_storage_provider(load: Load) -> None:
    settings = load("backup_media_store_path: /backup\nsynchronous_backup_media_store: true\n")

    (provider,) = settings.media.media_storage_providers
    assert provider.place == FolderProviderSettings(directory=Path("/backup"))
    assert (provider.store_local, provider.store_remote) == (True, True)
    assert provider.store_synchronous
