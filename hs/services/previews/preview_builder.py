"""Makes the preview of a link: fetches it, reads it in the sandbox, stores its image."""

import logging
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import attrs
import msgspec
import trio

from hs.core.errors import LimitExceeded, MatrixError
from hs.lib.caching.lru_cache import LruCache
from hs.lib.http_client import HttpAnswer
from hs.lib.sandbox.page_facts import READ_PAGE, PageFacts, PageJob, encode, read_facts
from hs.lib.sandbox.pool import FaultKind, Sandbox, SandboxFault
from hs.services.previews.oembed import (
    MAX_ANSWER_BYTES,
    Provider,
    cache_age_s,
    draft_of_oembed,
    endpoint_for,
    html_in,
    read_answer,
)
from hs.services.previews.opengraph import Draft, Properties, draft_of, oembed_link
from hs.services.previews.preview_fetcher import Fetcher, content_type_of
from hs.services.previews.preview_images import PreviewImages

PAGE_S = 15.0
OEMBED_S = 10.0
PARSE_S = 10.0
# Nothing is read of a host for so long after one of its pages took too long.
SLOW_HOST_S = 600.0
SLOW_HOSTS = 10_000
# Of a page, this much is read: what it says of itself stands at its beginning.
READ_BYTES = 2 << 20
FACTS_BYTES = 1 << 20
BUSY_MS = 2000
PAGES = frozenset(("text/html", "application/xhtml+xml"))
ACCEPT_PAGE = "text/html,application/xhtml+xml;q=0.9,image/*;q=0.8,*/*;q=0.5"
ACCEPT_JSON = "application/json"

USUAL_LIFE_S = 3600
# Of a page that was not read, but may be soon.
UNREAD_LIFE_S = int(SLOW_HOST_S)
LONGEST_LIFE_S = 86_400

log = logging.getLogger(__name__)


@attrs.frozen
class Preview:
    """What clients are shown of a link, and how long that is good."""

    properties: Properties
    life_s: int


@attrs.define(eq=False)
class Links:
    """Makes previews.

    One page is read at a time: the sandbox is shared, and pages may be made to take long.
    """

    _fetcher: Fetcher
    _sandbox: Sandbox
    _images: PreviewImages
    _providers: Sequence[Provider]
    _max_bytes: int
    _parse_s: float = PARSE_S
    _turn: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(1), init=False)
    _slow: LruCache[str, float] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slow = LruCache("slow_preview_hosts", max_entries=SLOW_HOSTS)

    async def read(self, url: str) -> Preview:
        """Make the preview of a link. Raises: NotFetched, LimitExceeded, as the fetcher."""
        described = None
        endpoint = endpoint_for(self._providers, url)
        if endpoint is not None:
            described = await self._described(endpoint, url)
        if described is not None:
            draft, life_s = described
            return Preview(await self._with_image(draft), life_s)
        answer = await self._fetcher.fetch(
            url, ACCEPT_PAGE, timeout_s=PAGE_S, max_bytes=self._max_bytes
        )
        kind, charset = content_type_of(answer)
        if kind.startswith("image/"):
            return Preview(await self._image_alone(answer, kind), USUAL_LIFE_S)
        if kind not in PAGES and not (kind == "" and answer.body.lstrip()[:1] == b"<"):
            return Preview({}, USUAL_LIFE_S)
        draft, life_s = await self._page(answer, charset)
        return Preview(await self._with_image(draft), life_s)

    async def _page(self, answer: HttpAnswer, charset: str | None) -> tuple[Draft, int]:
        facts = await self._facts(answer.url, answer.body, charset)
        if facts is None:
            return Draft({}), UNREAD_LIFE_S
        draft = draft_of(facts, answer.url)
        link = oembed_link(facts, answer.url)
        is_complete = "og:title" in facts.properties and bool(draft.images)
        if link is None or is_complete:
            return draft, USUAL_LIFE_S
        described = await self._described(link, answer.url)
        if described is None:
            return draft, USUAL_LIFE_S
        more, life_s = described
        return draft.over(more), life_s

    async def _described(self, endpoint: str, url: str) -> tuple[Draft, int] | None:
        """Ask an oEmbed endpoint; None if it has nothing to say."""
        try:
            answer = await self._fetcher.fetch(
                endpoint, ACCEPT_JSON, timeout_s=OEMBED_S, max_bytes=MAX_ANSWER_BYTES
            )
            content = read_answer(answer.body)
        except (MatrixError, ValueError) as error:
            log.debug("no oEmbed description: %s", error)
            return None
        html = html_in(content)
        facts = None if html is None else await self._facts(endpoint, html.encode(), "utf-8")
        age_s = cache_age_s(content) or USUAL_LIFE_S
        life_s = min(max(age_s, USUAL_LIFE_S), LONGEST_LIFE_S)
        return draft_of_oembed(content, facts, url), life_s

    async def _facts(self, url: str, body: bytes, charset: str | None) -> PageFacts | None:
        host, job = urlsplit(url).hostname or "", encode(PageJob(body[:READ_BYTES], charset))
        try:
            async with self._turn:
                if self._slow.get(host, 0.0) > trio.current_time():
                    return None
                read = await self._sandbox.run(
                    READ_PAGE, job, timeout_s=self._parse_s, max_bytes=FACTS_BYTES
                )
            return read_facts(read)
        except SandboxFault as fault:
            if fault.kind is FaultKind.BUSY:
                raise LimitExceeded("Too many previews", retry_after_ms=BUSY_MS) from None
            if fault.kind is FaultKind.TIMED_OUT:
                self._slow.put(host, trio.current_time() + SLOW_HOST_S)
            log.info("a page cannot be read for its preview: %s", fault)
        except msgspec.DecodeError:
            log.warning("what came from the sandbox is nothing of ours")
        return None

    async def _with_image(self, draft: Draft) -> Properties:
        for url in draft.images:
            stored = await self._images.fetch(url)
            if stored is not None:
                return {**draft.properties, **stored.properties}
        return draft.properties

    async def _image_alone(self, answer: HttpAnswer, kind: str) -> Properties:
        stored = await self._images.store(answer.body, kind, _name(answer.url))
        if stored is None:
            return {}
        title: Properties = {"og:title": _name(answer.url)} if _name(answer.url) else {}
        return {**title, **stored.properties}


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])[:100]
