"""The generation of URL previews: fetches a page, parses it in the sandbox, stores its image."""

import logging
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import attrs
import msgspec
import trio

from hs.core.errors import LimitExceeded, MatrixError
from hs.lib.caching.lru_cache import LruCache
from hs.lib.http_client import HttpResponse
from hs.lib.sandbox.page_facts import READ_PAGE, PageFacts, PageJob, encode, read_facts
from hs.lib.sandbox.pool import Sandbox, SandboxFault, SandboxFaultKind
from hs.services.previews.oembed import (
    MAX_RESPONSE_BYTES,
    OEmbedProvider,
    cache_age_s,
    draft_of_oembed,
    endpoint_for,
    html_in,
    parse_response,
)
from hs.services.previews.opengraph import PreviewDraft, Properties, draft_of, oembed_link
from hs.services.previews.preview_fetcher import PreviewFetcher, content_type_of
from hs.services.previews.preview_images import PreviewImages

PAGE_S = 15.0
OEMBED_S = 10.0
PARSE_S = 10.0
# After a page took too long to parse, no pages of its host are parsed for this time.
SLOW_HOST_S = 600.0
SLOW_HOSTS = 10_000
# Only the beginning of a page is parsed, because it contains the metadata.
PARSED_BYTES = 2 << 20
FACTS_BYTES = 1 << 20
BUSY_MS = 2000
PAGES = frozenset(("text/html", "application/xhtml+xml"))
ACCEPT_PAGE = "text/html,application/xhtml+xml;q=0.9,image/*;q=0.8,*/*;q=0.5"
ACCEPT_JSON = "application/json"

DEFAULT_LIFE_S = 3600
# For a page that was not parsed, because it or its host is slow.
UNPARSED_LIFE_S = int(SLOW_HOST_S)
MAX_LIFE_S = 86_400

log = logging.getLogger(__name__)


@attrs.frozen
class UrlPreview:
    """A preview, and how long it can be cached."""

    properties: Properties
    life_s: int


@attrs.define(eq=False)
class PreviewBuilder:
    """The generator of previews.

    Only one page is parsed at a time: the sandbox is shared with thumbnails, and pages can be made
    to take long.
    """

    _fetcher: PreviewFetcher
    _sandbox: Sandbox
    _images: PreviewImages
    _providers: Sequence[OEmbedProvider]
    _max_bytes: int
    _parsing: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(1), init=False)
    _slow: LruCache[str, float] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slow = LruCache("slow_preview_hosts", max_entries=SLOW_HOSTS)

    async def build(self, url: str) -> UrlPreview:
        """Generate the preview of a URL.

        Raises: NotFetched, LimitExceeded, and as the fetcher.
        """
        oembed = None
        endpoint = endpoint_for(self._providers, url)
        if endpoint is not None:
            oembed = await self._fetch_oembed(endpoint, url)
        if oembed is not None:
            draft, life_s = oembed
            return UrlPreview(await self._with_image(draft), life_s)
        answer = await self._fetcher.fetch(
            url, ACCEPT_PAGE, timeout_s=PAGE_S, max_bytes=self._max_bytes
        )
        content_type, charset = content_type_of(answer)
        if content_type.startswith("image/"):
            return UrlPreview(await self._image_preview(answer, content_type), DEFAULT_LIFE_S)
        if content_type not in PAGES and not (
            content_type == "" and answer.body.lstrip()[:1] == b"<"
        ):
            return UrlPreview({}, DEFAULT_LIFE_S)
        draft, life_s = await self._page(answer, charset)
        return UrlPreview(await self._with_image(draft), life_s)

    async def _page(self, answer: HttpResponse, charset: str | None) -> tuple[PreviewDraft, int]:
        facts = await self._parse(answer.url, answer.body, charset)
        if facts is None:
            return PreviewDraft({}), UNPARSED_LIFE_S
        draft = draft_of(facts, answer.url)
        link = oembed_link(facts, answer.url)
        is_complete = "og:title" in facts.properties and bool(draft.images)
        if link is None or is_complete:
            return draft, DEFAULT_LIFE_S
        oembed = await self._fetch_oembed(link, answer.url)
        if oembed is None:
            return draft, DEFAULT_LIFE_S
        oembed_draft, life_s = oembed
        return draft.with_fallback(oembed_draft), life_s

    async def _fetch_oembed(self, endpoint: str, url: str) -> tuple[PreviewDraft, int] | None:
        """Fetch an oEmbed description; return None if that fails."""
        try:
            answer = await self._fetcher.fetch(
                endpoint, ACCEPT_JSON, timeout_s=OEMBED_S, max_bytes=MAX_RESPONSE_BYTES
            )
            content = parse_response(answer.body)
        except (MatrixError, ValueError) as error:
            log.debug("fetching an oEmbed description failed: %s", error)
            return None
        html = html_in(content)
        facts = None if html is None else await self._parse(endpoint, html.encode(), "utf-8")
        age_s = cache_age_s(content) or DEFAULT_LIFE_S
        life_s = min(max(age_s, DEFAULT_LIFE_S), MAX_LIFE_S)
        return draft_of_oembed(content, facts, url), life_s

    async def _parse(self, url: str, body: bytes, charset: str | None) -> PageFacts | None:
        host, job = urlsplit(url).hostname or "", encode(PageJob(body[:PARSED_BYTES], charset))
        try:
            async with self._parsing:
                if self._slow.get(host, 0.0) > trio.current_time():
                    return None
                output = await self._sandbox.run(
                    READ_PAGE, job, timeout_s=PARSE_S, max_bytes=FACTS_BYTES
                )
            return read_facts(output)
        except SandboxFault as fault:
            if fault.kind is SandboxFaultKind.BUSY:
                raise LimitExceeded(
                    "Too many URL previews are being generated", retry_after_ms=BUSY_MS
                ) from None
            if fault.kind is SandboxFaultKind.TIMED_OUT:
                self._slow.put(host, trio.current_time() + SLOW_HOST_S)
            log.info("parsing a page for its preview failed: %s", fault)
        except msgspec.DecodeError:
            log.warning("unexpected output of the sandbox while parsing a page")
        return None

    async def _with_image(self, draft: PreviewDraft) -> Properties:
        for url in draft.images:
            image = await self._images.fetch(url)
            if image is not None:
                return {**draft.properties, **image.properties}
        return draft.properties

    async def _image_preview(self, answer: HttpResponse, content_type: str) -> Properties:
        image = await self._images.store(answer.body, content_type, _name(answer.url))
        if image is None:
            return {}
        title: Properties = {"og:title": _name(answer.url)} if _name(answer.url) else {}
        return {**title, **image.properties}


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])[:100]
