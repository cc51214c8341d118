"""Previews of links, if they are enabled."""

from pathlib import Path

import attrs

from hs.apis.media.previews import UrlPreviewApi
from hs.lib.optional_libraries import is_installed
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import MEDIA_JOBS
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.http_clients import HttpClients
from hs.nursery.wiring.media import MediaServices
from hs.services.previews.oembed import OEmbedProvider, built_in_providers, parse_providers
from hs.services.previews.preview_builder import PreviewBuilder
from hs.services.previews.preview_cache import UrlPreviews
from hs.services.previews.preview_fetcher import PreviewFetcher
from hs.services.previews.preview_images import PreviewImages
from hs.settings.errors import Problem, SettingsError

CLEANUP_EVERY_S = 3600.0


@attrs.frozen(eq=False, kw_only=True)
class PreviewServices:
    """The previews; None if they are disabled or served by other processes."""

    previews: UrlPreviews | None = None
    part: Part = attrs.Factory(Part)


def wire_previews(base: ProcessBase, http: HttpClients, media: MediaServices) -> PreviewServices:
    """Build the services, if previews are enabled and this process serves media.

    Raises: SettingsError, if the parser of HTML or a file is missing.
    """
    settings = base.settings.previews
    if not settings.url_preview_enabled or not base.settings.workers.serves_media:
        return PreviewServices()
    if not is_installed("selectolax"):
        _refuse("url_preview_enabled", "the parser of HTML is missing", "install hs[url-preview]")
    fetcher = PreviewFetcher(
        http.previews,
        settings.url_preview_url_blacklist,
        settings.url_preview_accept_language,
    )
    max_bytes = settings.max_spider_size
    images = PreviewImages(
        fetcher=fetcher,
        repository=media.repository,
        thumbnails=media.thumbnails,
        database=base.database,
        clock=base.clock,
        max_bytes=max_bytes,
    )
    links = PreviewBuilder(fetcher, media.sandbox, images, _providers(base), max_bytes)
    previews = UrlPreviews(base.database, base.clock, fetcher, links)

    async def clean_up() -> None:
        await previews.delete_expired()
        await images.delete_unused()

    cleaning = Duty(
        "preview cleanup",
        clean_up,
        plan_duty=MEDIA_JOBS,
        period_s=CLEANUP_EVERY_S,
        at_start=False,
    )
    part = Part(endpoints=[UrlPreviewApi(previews)], duties=[cleaning])
    return PreviewServices(previews=previews, part=part)


def _providers(base: ProcessBase) -> list[OEmbedProvider]:
    settings = base.settings.previews.oembed
    providers = [] if settings.disable_default_providers else built_in_providers()
    for path in settings.additional_providers:
        providers[:0] = _read(path)
    return providers


def _read(path: Path) -> list[OEmbedProvider]:
    try:
        return parse_providers(path.read_bytes())
    except (OSError, ValueError) as error:
        _refuse("oembed.additional_providers", f"{path} cannot be read: {error}", "correct it")
        return []


def _refuse(key: str, message: str, remedy: str) -> None:
    raise SettingsError([Problem(key=key, message=message, remedy=remedy)])
