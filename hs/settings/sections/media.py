"""Settings of the media repository: uploads, thumbnails, storage and retention."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from hs.core.ids import ServerName
from hs.settings.fields import block, inline_secret, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    OBJECT,
    PATH,
    SERVER_NAME,
    SIZE,
    STRING,
    ConfigLocation,
    Kind,
    choice,
    integer,
    list_of,
    optional,
    or_infinity,
)

CROP, SCALE = "crop", "scale"
FOLDER_MODULES = (
    "file_system",
    "synapse.rest.media.v1.storage_provider.FileStorageProviderBackend",
)
S3_MODULES = ("s3_storage_provider.S3StorageProviderBackend",)


@attrs.frozen(kw_only=True)
class ThumbnailSize:
    """A thumbnail size."""

    width: int = setting(integer(minimum=1, maximum=4096), 0, "Width in pixels.")
    height: int = setting(integer(minimum=1, maximum=4096), 0, "Height in pixels.")
    method: str = setting(
        choice(CROP, SCALE), SCALE, "`crop` fills the size exactly, `scale` fits into it."
    )


def _size(width: int, height: int, method: str) -> ThumbnailSize:
    return ThumbnailSize(width=width, height=height, method=method)


# Spec: client-server API, Thumbnails.
DEFAULT_SIZES = (
    _size(32, 32, CROP),
    _size(96, 96, CROP),
    _size(320, 240, SCALE),
    _size(640, 480, SCALE),
    _size(800, 600, SCALE),
)


def _read_size(value: Any, at: ConfigLocation) -> ThumbnailSize:
    size: ThumbnailSize = block(ThumbnailSize).read(value, at)
    if not (size.width and size.height):
        at.reject("a thumbnail size needs width and height", "write `{width: 320, height: 240}`")
    return size


@attrs.frozen(kw_only=True)
class UploadLimit:
    """A limit on what one user may upload in a period."""

    time_period: int = setting(DURATION, 0, "Period.")
    max_size: int = setting(SIZE, 0, "Total size of uploads allowed in the period.")


def _read_limit(value: Any, at: ConfigLocation) -> UploadLimit:
    limit: UploadLimit = block(UploadLimit).read(value, at)
    if not limit.time_period or "max_size" not in value:
        at.reject(
            "an upload limit needs time_period and max_size",
            'write `{time_period: "1d", max_size: "1G"}`',
        )
    return limit


@attrs.frozen(kw_only=True)
class MediaRetentionSettings:
    """How long media are kept after their last use; None keeps them forever."""

    local_media_lifetime: int | None = setting(
        or_infinity(DURATION),
        None,
        "Time after their last use when media of local users are deleted; never if null.",
    )
    remote_media_lifetime: int | None = setting(
        or_infinity(DURATION),
        None,
        "Time after their last use when copies of remote media are deleted; never if null.",
    )


@attrs.frozen(kw_only=True)
class FolderProviderSettings:
    """A storage provider in a folder."""

    directory: Path | None = setting(optional(PATH), None, "Path of the folder.")


@attrs.frozen(kw_only=True)
class S3ProviderSettings:
    """A storage provider in a bucket of an S3-compatible service."""

    bucket: str = setting(STRING, "", "Name of the bucket.")
    prefix: str = setting(STRING, "", "Prefix of all object names.")
    endpoint_url: str | None = setting(
        optional(STRING), None, "URL of the service; Amazon S3 if missing."
    )
    region_name: str | None = setting(optional(STRING), None, "Region of the bucket.")
    access_key_id: str | None = setting(
        optional(STRING), None, "Access key ID; by default taken from the environment."
    )
    secret_access_key: str | None = inline_secret("Secret access key.")
    session_token: str | None = inline_secret("Session token of temporary credentials.")
    storage_class: str = setting(STRING, "STANDARD", "Storage class of new objects.")
    threadpool_size: int = setting(
        integer(minimum=1),
        40,
        "Maximum number of concurrent transfers.",
    )


@attrs.frozen(kw_only=True)
class _ProviderBlock:
    """A storage provider as written in the configuration."""

    module: str = setting(STRING, "", "Kind of storage provider.")
    store_local: bool = setting(BOOLEAN, False, "Copy media uploaded by local users.")
    store_remote: bool = setting(BOOLEAN, False, "Copy remote media.")
    store_synchronous: bool = setting(
        BOOLEAN, False, "Respond to an upload only after it has been copied."
    )
    config: Mapping[str, Any] = setting(OBJECT, {}, "Settings of the storage provider.", shown={})


@attrs.frozen(kw_only=True)
class StorageProvider:
    """A further store to which media are copied, and from which missing files are read."""

    place: FolderProviderSettings | S3ProviderSettings
    store_local: bool = False
    store_remote: bool = False
    store_synchronous: bool = False


def _read_provider(value: Any, at: ConfigLocation) -> StorageProvider:
    provider: _ProviderBlock = block(_ProviderBlock).read(value, at)
    return StorageProvider(
        place=_read_place(provider, at),
        store_local=provider.store_local,
        store_remote=provider.store_remote,
        store_synchronous=provider.store_synchronous,
    )


def _read_place(
    provider: _ProviderBlock, at: ConfigLocation
) -> FolderProviderSettings | S3ProviderSettings:
    config_at, config = at.child("config"), dict(provider.config)
    if provider.module in FOLDER_MODULES:
        folder: FolderProviderSettings = block(FolderProviderSettings).read(config, config_at)
        if folder.directory is None:
            config_at.reject("directory is missing", "add `directory: /path/of/the/folder`")
        return folder
    if provider.module in S3_MODULES:
        s3: S3ProviderSettings = block(S3ProviderSettings).read(config, config_at)
        if not s3.bucket:
            config_at.reject("bucket is missing", "add `bucket: name-of-the-bucket`")
        if (s3.access_key_id is None) != (s3.secret_access_key is None):
            config_at.reject(
                "access_key_id and secret_access_key must be set together", "add the missing one"
            )
        return s3
    at.child("module").reject(
        f"{provider.module!r} is not a supported storage provider",
        f"use {FOLDER_MODULES[0]} or {S3_MODULES[0]}",
    )


PROVIDER = Kind("storage provider", _read_provider, {"type": "object"})
SIZES = list_of(Kind("thumbnail size", _read_size, {"type": "object"}))
LIMITS = list_of(Kind("upload limit", _read_limit, {"type": "object"}))


@attrs.frozen(kw_only=True)
class MediaSettings:
    """The media repository."""

    enable_authenticated_media: bool = setting(
        BOOLEAN, True, "Require an access token for downloads of media uploaded from now on."
    )
    media_store_path: Path = setting(
        PATH, Path("media_store"), "Folder in which media are stored.", shown="media_store"
    )
    media_storage_providers: tuple[StorageProvider, ...] = setting(
        list_of(PROVIDER),
        (),
        "Further stores to which media are copied, and from which media missing in the folder are "
        "read.",
        shown=[],
    )
    max_upload_size: int = setting(SIZE, 50 * 1024**2, "Maximum size of an upload.", shown="50M")
    media_upload_limits: tuple[UploadLimit, ...] = setting(
        LIMITS, (), "Limits on what each user may upload in a period; all of them apply.", shown=[]
    )
    max_pending_media_uploads: int = setting(
        COUNT, 5, "Maximum number of media IDs that a user has reserved and not yet uploaded."
    )
    unused_expiration_time: int = setting(
        DURATION,
        86_400_000,
        "Time after which a reserved media ID expires if nothing is uploaded.",
        shown="24h",
    )
    max_image_pixels: int = setting(
        SIZE,
        32 * 1024**2,
        "Maximum number of pixels of an image for which thumbnails are generated.",
        shown="32M",
    )
    dynamic_thumbnails: bool = setting(
        BOOLEAN, False, "Generate thumbnails in exactly the requested size."
    )
    thumbnail_sizes: tuple[ThumbnailSize, ...] = setting(
        SIZES,
        DEFAULT_SIZES,
        "Sizes of thumbnails that are generated when an image is uploaded.",
        shown=[attrs.asdict(size) for size in DEFAULT_SIZES],
    )
    prevent_media_downloads_from: tuple[ServerName, ...] = setting(
        list_of(SERVER_NAME),
        (),
        "Servers whose media cannot be downloaded through this server.",
        shown=[],
    )
    remote_media_download_per_second: int = setting(
        SIZE,
        87 * 1024,
        "Rate at which each client address may have remote media downloaded, in bytes per second.",
        shown="87KiB",
    )
    remote_media_download_burst_count: int = setting(
        SIZE,
        500 * 1024**2,
        "Size of remote media that each client address may have downloaded at once.",
        shown="500MiB",
    )
    media_retention: MediaRetentionSettings = sub_block(
        MediaRetentionSettings, "Deletion of media that are no longer used."
    )
