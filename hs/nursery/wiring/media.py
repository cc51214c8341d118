"""Media: the repository, thumbnails, further places for content, and their upkeep."""

import importlib
import importlib.util

import attrs

from hs.apis.media.downloads import MediaDownloadApi
from hs.apis.media.uploads import MediaUploadApi
from hs.apis.web.drain import Drain
from hs.lib.sandbox.pool import Sandbox
from hs.lib.tasks import Duty, every
from hs.nursery.plan import MEDIA_JOBS
from hs.nursery.process import Runner
from hs.nursery.process_base import Foundation
from hs.repl.streams import CACHES
from hs.services.media.content_stores import Contents, ContentStore, FolderStore, Place
from hs.services.media.last_access import MediaUses
from hs.services.media.media_cleanup import UPKEEP_PERIOD_S, MediaUpkeep
from hs.services.media.media_folder import MediaFolder
from hs.services.media.remote_media import RemoteMedia
from hs.services.media.repository import MediaRepository
from hs.services.media.thumbnails import Thumbnails
from hs.services.media.upload_waiters import Arrivals
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.media import FolderSettings, S3Settings, StorageProvider


@attrs.frozen(eq=False, kw_only=True)
class MediaServices:
    """What the endpoints, previews and federation need of media.

    `sandbox` is for whatever else has to look at untrusted input.
    """

    ground: Foundation
    sandbox: Sandbox
    repository: MediaRepository
    thumbnails: Thumbnails
    contents: Contents
    uses: MediaUses
    upkeep: MediaUpkeep

    @property
    def runners(self) -> list[tuple[str, Runner]]:
        """End the sandbox's processes with this one."""
        return [("sandbox", self.sandbox.keep)]

    @property
    def duties(self) -> list[Duty]:
        """Give what every process does that serves media."""
        if not self.ground.settings.workers.serves_media:
            return []
        return [
            Duty("noting when media are used", self.uses.run),
            Duty("thumbnails of new pictures", self.thumbnails.run),
            Duty("copying media", self.contents.run),
        ]

    @property
    def lone_duties(self) -> list[Duty]:
        """Give what one process does now and then."""

        async def tidy() -> None:
            await every(UPKEEP_PERIOD_S, self.upkeep.tidy)

        return [Duty(MEDIA_JOBS, tidy)] if MEDIA_JOBS in self.ground.plan.duties else []


def wire_media(ground: Foundation, remote: RemoteMedia) -> MediaServices:
    """Build the services. Raises: SettingsError."""
    settings, database, clock = ground.settings.media, ground.database, ground.clock
    server_name = ground.settings.server.server_name
    folder = MediaFolder(settings.media_store_path)
    places = [place_of(one) for one in settings.media_storage_providers]
    contents = Contents(folder, places, database)
    uses, sandbox = MediaUses(database, clock), Sandbox()
    arrivals = Arrivals(ground.feed, ground.memory(CACHES))
    repository = MediaRepository(
        contents, database, clock, server_name, settings, arrivals, uses, remote
    )
    return MediaServices(
        ground=ground,
        sandbox=sandbox,
        repository=repository,
        thumbnails=Thumbnails(contents, database, sandbox, settings),
        contents=contents,
        uses=uses,
        upkeep=MediaUpkeep(
            database, clock, contents, repository, server_name, settings.media_retention
        ),
    )


def media_apis(media: MediaServices, drain: Drain) -> list[object]:
    """Give the endpoints, where this process has them."""
    settings = media.ground.settings
    if not settings.workers.serves_media:
        return []
    server_name, most = settings.server.server_name, settings.media.max_upload_size
    return [
        MediaUploadApi(media.repository, media.thumbnails, server_name),
        MediaDownloadApi(media.repository, media.thumbnails, server_name, most, drain),
    ]


def place_of(provider: StorageProvider) -> Place:
    """Build a further place. Raises: SettingsError (its library is not installed)."""
    return Place(
        store=_store_of(provider.place),
        takes_local=provider.store_local,
        takes_remote=provider.store_remote,
        is_waited_for=provider.store_synchronous,
    )


def _store_of(place: FolderSettings | S3Settings) -> ContentStore:
    if isinstance(place, FolderSettings):
        assert place.directory is not None
        return FolderStore(place.directory)
    if importlib.util.find_spec("boto3") is None:
        problem = Problem(
            key="media_storage_providers",
            message="the library for S3 is not installed",
            remedy="install hs[s3]",
        )
        raise SettingsError([problem])
    # Not imported above: only this setting needs it.
    bucket: ContentStore = importlib.import_module("hs.lib.s3").S3Bucket(
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
    return bucket
