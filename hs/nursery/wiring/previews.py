"""Previews of links, where they are switched on."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import attrs

from hs.apis.media.previews import PreviewApi
from hs.lib.tasks import Duty, every
from hs.nursery.plan import MEDIA_JOBS
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.http_clients import Outside
from hs.nursery.wiring.media import MediaServices
from hs.services.previews.oembed import Provider, read_providers, shipped_providers
from hs.services.previews.preview_builder import Links
from hs.services.previews.preview_cache import Previews
from hs.services.previews.preview_fetcher import Fetcher
from hs.services.previews.preview_images import PreviewImages
from hs.settings.errors import Problem, SettingsError

FORGET_EVERY_S = 3600.0


@attrs.frozen(eq=False, kw_only=True)
class PreviewParts:
    """What a process adds for previews: endpoints, and a duty that one process holds."""

    apis: Sequence[object] = ()
    lone_duties: Sequence[Duty] = ()


def wire_previews(ground: Foundation, outside: Outside, media: MediaServices) -> PreviewParts:
    """Build the service. Raises: SettingsError (its library or a file is missing)."""
    settings = ground.settings.previews
    if not settings.url_preview_enabled or not ground.settings.workers.serves_media:
        return PreviewParts()
    if importlib.util.find_spec("selectolax") is None:
        _refuse("url_preview_enabled", "the parser of HTML is missing", "install hs[url-preview]")
    fetcher = Fetcher(
        outside.previews,
        settings.url_preview_url_blacklist,
        settings.url_preview_accept_language,
    )
    max_bytes = settings.max_spider_size
    images = PreviewImages(
        fetcher, media.repository, media.thumbnails, ground.database, ground.clock, max_bytes
    )
    links = Links(fetcher, media.sandbox, images, _providers(ground), max_bytes)
    previews = Previews(ground.database, ground.clock, fetcher, links)

    async def tidy() -> None:
        await previews.forget_expired()
        await images.forget_unused()

    async def forget() -> None:
        await every(FORGET_EVERY_S, tidy)

    duties = [Duty("forgetting old previews", forget)] if MEDIA_JOBS in ground.plan.duties else []
    return PreviewParts(apis=[PreviewApi(previews)], lone_duties=duties)


def _providers(ground: Foundation) -> list[Provider]:
    settings = ground.settings.previews.oembed
    found = [] if settings.disable_default_providers else shipped_providers()
    for path in settings.additional_providers:
        found[:0] = _read(path)
    return found


def _read(path: Path) -> list[Provider]:
    try:
        return read_providers(path.read_bytes())
    except (OSError, ValueError) as error:
        _refuse("oembed.additional_providers", f"{path} cannot be read: {error}", "correct it")
        return []


def _refuse(key: str, message: str, remedy: str) -> None:
    raise SettingsError([Problem(key=key, message=message, remedy=remedy)])
