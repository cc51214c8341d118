"""Settings of the media repository: what may be uploaded, where it is kept, and for how long."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from hs.core.ids import ServerName
from hs.settings.fields import block, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    OBJECT,
    PATH,
    SERVER_NAME,
    SIZE,
    STRING,
    At,
    Kind,
    choice,
    endless,
    integer,
    list_of,
    optional,
)

CROP, SCALE = "crop", "scale"
FOLDER_MODULES = (
    "file_system",
    "synapse.rest.media.v1.storage_provider.FileStorageProviderBackend",
)
S3_MODULES = ("s3_storage_provider.S3StorageProviderBackend",)


@attrs.frozen(kw_only=True)
class ThumbnailSize:
    """A size that thumbnails are made in."""

    width: int = setting(integer(least=1, most=4096), 0, "Width in pixels.")
    height: int = setting(integer(least=1, most=4096), 0, "Height in pixels.")
    method: str = setting(
        choice(CROP, SCALE), SCALE, "`crop` fills the size, `scale` fits into it."
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


def _read_size(value: Any, at: At) -> ThumbnailSize:
    read: ThumbnailSize = block(ThumbnailSize).read(value, at)
    if not (read.width and read.height):
        at.refuse("a size needs width and height", "write `{width: 320, height: 240}`")
    return read


@attrs.frozen(kw_only=True)
class UploadLimit:
    """How much one user may upload in a time."""

    time_period: int = setting(DURATION, 0, "The time.")
    max_size: int = setting(SIZE, 0, "How much in that time.")


def _read_limit(value: Any, at: At) -> UploadLimit:
    read: UploadLimit = block(UploadLimit).read(value, at)
    if not read.time_period or "max_size" not in value:
        at.refuse(
            "a limit needs time_period and max_size", 'write `{time_period: "1d", max_size: "1G"}`'
        )
    return read


@attrs.frozen(kw_only=True)
class Retention:
    """How long media are kept after they were last asked for; null keeps them."""

    local_media_lifetime: int | None = setting(
        endless(DURATION), None, "Media uploaded by users of this server."
    )
    remote_media_lifetime: int | None = setting(
        endless(DURATION), None, "Copies of other servers' media."
    )


@attrs.frozen(kw_only=True)
class FolderSettings:
    """A further folder."""

    directory: Path | None = setting(optional(PATH), None, "Its path.")


@attrs.frozen(kw_only=True)
class S3Settings:
    """A bucket of a store that speaks S3."""

    bucket: str = setting(STRING, "", "Name of the bucket.")
    prefix: str = setting(STRING, "", "Put before every name in the bucket.")
    endpoint_url: str | None = setting(
        optional(STRING), None, "Where the store is, if it is not Amazon's."
    )
    region_name: str | None = setting(optional(STRING), None, "Region of the bucket.")
    access_key_id: str | None = setting(
        optional(STRING), None, "Key; without one, as the environment says."
    )
    secret_access_key: str | None = setting(optional(STRING), None, "Secret of that key.")
    session_token: str | None = setting(optional(STRING), None, "Token of a passing session.")
    storage_class: str = setting(STRING, "STANDARD", "Class of storage of new objects.")
    threadpool_size: int = setting(
        integer(least=1),
        40,
        "Transfers at once.",
    )


@attrs.frozen(kw_only=True)
class _WrittenProvider:
    """A storage provider as the file has it."""

    module: str = setting(STRING, "", "Kind of place.")
    store_local: bool = setting(BOOLEAN, False, "Copy what users of this server upload.")
    store_remote: bool = setting(BOOLEAN, False, "Copy what comes from other servers.")
    store_synchronous: bool = setting(
        BOOLEAN, False, "Answer an upload only when it has been copied."
    )
    config: Mapping[str, Any] = setting(OBJECT, {}, "Settings of that kind.", shown={})


@attrs.frozen(kw_only=True)
class StorageProvider:
    """A further place that media are copied to, and read from when they are not on the disk."""

    place: FolderSettings | S3Settings
    store_local: bool = False
    store_remote: bool = False
    store_synchronous: bool = False


def _read_provider(value: Any, at: At) -> StorageProvider:
    written: _WrittenProvider = block(_WrittenProvider).read(value, at)
    return StorageProvider(
        place=_read_place(written, at),
        store_local=written.store_local,
        store_remote=written.store_remote,
        store_synchronous=written.store_synchronous,
    )


def _read_place(written: _WrittenProvider, at: At) -> FolderSettings | S3Settings:
    here, config = at.child("config"), dict(written.config)
    if written.module in FOLDER_MODULES:
        folder: FolderSettings = block(FolderSettings).read(config, here)
        if folder.directory is None:
            here.refuse("directory is missing", "add `directory: /path/of/the/folder`")
        return folder
    if written.module in S3_MODULES:
        s3: S3Settings = block(S3Settings).read(config, here)
        if not s3.bucket:
            here.refuse("bucket is missing", "add `bucket: name-of-the-bucket`")
        if (s3.access_key_id is None) != (s3.secret_access_key is None):
            here.refuse("a key needs its secret", "set access_key_id and secret_access_key")
        return s3
    at.child("module").refuse(
        f"there is no kind of storage provider called {written.module!r}",
        f"use {FOLDER_MODULES[0]} or {S3_MODULES[0]}",
    )


PROVIDER = Kind("storage provider", _read_provider, {"type": "object"})
SIZES = list_of(Kind("thumbnail size", _read_size, {"type": "object"}))
LIMITS = list_of(Kind("upload limit", _read_limit, {"type": "object"}))


@attrs.frozen(kw_only=True)
class MediaSettings:
    """The media repository."""

    enable_authenticated_media: bool = setting(
        BOOLEAN, True, "Show media uploaded from now on to those with a token only."
    )
    media_store_path: Path = setting(
        PATH, Path("media_store"), "Folder of the media.", shown="media_store"
    )
    media_storage_providers: tuple[StorageProvider, ...] = setting(
        list_of(PROVIDER),
        (),
        "Further places that media are copied to, and read from when they are not in the folder.",
        shown=[],
    )
    max_upload_size: int = setting(SIZE, 50 * 1024**2, "Largest upload.", shown="50M")
    media_upload_limits: tuple[UploadLimit, ...] = setting(
        LIMITS, (), "How much each user may upload in a time; every limit holds.", shown=[]
    )
    max_pending_media_uploads: int = setting(
        COUNT, 5, "How many addresses a user may have announced and not yet filled."
    )
    unused_expiration_time: int = setting(
        DURATION, 86_400_000, "When an announced address expires.", shown="24h"
    )
    max_image_pixels: int = setting(
        SIZE, 32 * 1024**2, "Largest picture, in pixels, to make thumbnails of.", shown="32M"
    )
    dynamic_thumbnails: bool = setting(
        BOOLEAN, False, "Make thumbnails in just the size that is asked for."
    )
    thumbnail_sizes: tuple[ThumbnailSize, ...] = setting(
        SIZES,
        DEFAULT_SIZES,
        "Sizes of thumbnails, made when a picture is uploaded.",
        shown=[attrs.asdict(one) for one in DEFAULT_SIZES],
    )
    prevent_media_downloads_from: tuple[ServerName, ...] = setting(
        list_of(SERVER_NAME), (), "Servers whose media are not shown here.", shown=[]
    )
    media_retention: Retention = sub_block(Retention, "How long media are kept.")
