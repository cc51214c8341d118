"""Media: the repository, thumbnails, storage providers, and cleanup."""

import attrs

from hs.apis.media.downloads import MediaDownloadApi
from hs.apis.media.uploads import MediaUploadApi
from hs.apis.web.drain import Drain
from hs.core.streams import CACHES
from hs.lib.s3_loader import is_s3_available, load_s3_bucket
from hs.lib.sandbox.pool import Sandbox
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import MEDIA_JOBS
from hs.nursery.process_base import ProcessBase
from hs.services.media.content_stores import ContentStore, FolderStore, MediaStorage, ProviderStore
from hs.services.media.download_limit import RemoteDownloadLimit
from hs.services.media.folder_owner import FolderOwner
from hs.services.media.last_access import MediaAccessTimes
from hs.services.media.media_cleanup import CLEANUP_PERIOD_S, MediaCleanup
from hs.services.media.media_folder import MediaFolder
from hs.services.media.remote_media import RemoteMedia
from hs.services.media.repository import MediaRepository
from hs.services.media.thumbnails import Thumbnails
from hs.services.media.upload_waiters import UploadWaiters
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.media import FolderProviderSettings, S3ProviderSettings, StorageProvider


@attrs.frozen(eq=False, kw_only=True)
class MediaServices:
    """The services of media; `sandbox` runs code on any untrusted input."""

    sandbox: Sandbox
    repository: MediaRepository
    thumbnails: Thumbnails
    part: Part


def wire_media(base: ProcessBase, remote: RemoteMedia, drain: Drain) -> MediaServices:
    """Build the services. Raises: SettingsError."""
    settings, database, clock = base.settings.media, base.database, base.clock
    server_name = base.settings.server.server_name
    folder = MediaFolder(settings.media_store_path)
    places = [place_of(provider) for provider in settings.media_storage_providers]
    contents = MediaStorage(folder, places, database)
    uses, sandbox = MediaAccessTimes(database, clock), Sandbox()
    repository = MediaRepository(
        contents=contents,
        database=database,
        clock=clock,
        server_name=server_name,
        settings=settings,
        arrivals=UploadWaiters(base.feed, base.memory(CACHES)),
        uses=uses,
        remote=remote,
        limit=RemoteDownloadLimit(settings, base.limiters),
    )
    thumbnails = Thumbnails(contents, database, sandbox, settings)
    return MediaServices(
        sandbox=sandbox,
        repository=repository,
        thumbnails=thumbnails,
        part=Part(
            endpoints=_endpoints(base, repository, thumbnails, drain),
            runners=[("sandbox", sandbox.run_reaper)],
            duties=[
                _cleanup(base, contents, repository),
                *_duties(base, contents, uses, thumbnails),
            ],
        ),
    )


def _endpoints(
    base: ProcessBase, repository: MediaRepository, thumbnails: Thumbnails, drain: Drain
) -> list[object]:
    settings = base.settings
    if not settings.workers.serves_media:
        return []
    server_name, max_bytes = settings.server.server_name, settings.media.max_upload_size
    return [
        MediaUploadApi(repository, thumbnails, server_name),
        MediaDownloadApi(repository, thumbnails, server_name, max_bytes, drain),
    ]


def _cleanup(base: ProcessBase, contents: MediaStorage, repository: MediaRepository) -> Duty:
    cleanup = MediaCleanup(
        database=base.database,
        clock=base.clock,
        contents=contents,
        owner=FolderOwner(base.database, contents.folder),
        repository=repository,
        server_name=base.settings.server.server_name,
        retention=base.settings.media.media_retention,
    )
    return Duty(
        MEDIA_JOBS,
        cleanup.clean_up,
        plan_duty=MEDIA_JOBS,
        period_s=CLEANUP_PERIOD_S,
        at_start=False,
    )


def _duties(
    base: ProcessBase, contents: MediaStorage, uses: MediaAccessTimes, thumbnails: Thumbnails
) -> list[Duty]:
    if not base.settings.workers.serves_media:
        return []
    return [
        Duty("media access times", uses.run),
        Duty("thumbnails of uploads", thumbnails.run),
        Duty("media copies", contents.run),
    ]


def place_of(provider: StorageProvider) -> ProviderStore:
    """Build the store of a storage provider.

    Raises: SettingsError, if its library is not installed.
    """
    return ProviderStore(
        store=_store_of(provider.place),
        takes_local=provider.store_local,
        takes_remote=provider.store_remote,
        is_synchronous=provider.store_synchronous,
    )


def _store_of(place: FolderProviderSettings | S3ProviderSettings) -> ContentStore:
    if isinstance(place, FolderProviderSettings):
        assert place.directory is not None
        return FolderStore(place.directory)
    if not is_s3_available():
        problem = Problem(
            key="media_storage_providers",
            message="the library for S3 is not installed",
            remedy="install hs[s3]",
        )
        raise SettingsError([problem])
    return load_s3_bucket()(
        bucket=place.bucket,
        prefix=place.prefix,
        endpoint_url=place.endpoint_url,
        region_name=place.region_name,
        access_key_id=place.access_key_id,
        secret_access_key=place.secret_access_key,
        session_token=place.session_token,
        storage_class=place.storage_class,
        threads=place.threadpool_size,
    )
