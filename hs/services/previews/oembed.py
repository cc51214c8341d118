"""oEmbed: descriptions of pages by endpoints of their sites. Spec: https://oembed.com/."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import attrs
import orjson

from hs.lib.plain_text import one_line
from hs.lib.sandbox.page_facts import PageFacts
from hs.services.previews.opengraph import (
    MAX_VALUE_CHARS,
    PreviewDraft,
    Properties,
    draft_of,
    shortened,
)

MAX_RESPONSE_BYTES = 512 * 1024

# Large sites whose pages contain little metadata, or none for programs.
PROVIDERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "https://publish.twitter.com/oembed",
        (
            "https://twitter.com/*/status/*",
            "https://*.twitter.com/*/status/*",
            "https://x.com/*/status/*",
            "https://*.x.com/*/status/*",
            "https://twitter.com/*/moments/*",
            "https://*.twitter.com/*/moments/*",
        ),
    ),
    (
        "https://www.youtube.com/oembed",
        (
            "https://*.youtube.com/watch*",
            "https://*.youtube.com/shorts/*",
            "https://*.youtube.com/playlist?*",
            "https://youtu.be/*",
        ),
    ),
    ("https://vimeo.com/api/oembed.json", ("https://vimeo.com/*", "https://player.vimeo.com/*")),
    ("https://open.spotify.com/oembed", ("https://open.spotify.com/*",)),
    ("https://soundcloud.com/oembed", ("https://soundcloud.com/*",)),
    ("https://www.tiktok.com/oembed", ("https://www.tiktok.com/@*",)),
    ("https://www.reddit.com/oembed", ("https://*.reddit.com/r/*/comments/*",)),
)


@attrs.frozen
class OEmbedProvider:
    """An oEmbed endpoint and the URLs that it describes."""

    endpoint: str
    pages: tuple[re.Pattern[str], ...]

    def url_for(self, url: str) -> str | None:
        """Return the request URL for a page, or None if the endpoint does not describe it."""
        if not any(page.fullmatch(url) for page in self.pages):
            return None
        query = urlencode({"url": url, "format": "json"})
        return f"{self.endpoint}{'&' if '?' in self.endpoint else '?'}{query}"


def built_in_providers() -> list[OEmbedProvider]:
    """Return the built-in providers."""
    return [OEmbedProvider(endpoint, tuple(map(_pattern, pages))) for endpoint, pages in PROVIDERS]


def parse_providers(text: bytes) -> list[OEmbedProvider]:
    """Parse a list in the format of https://oembed.com/providers.json. Raises: ValueError."""
    entries = orjson.loads(text)
    if not isinstance(entries, list):
        raise ValueError("must be a list")
    providers = []
    for entry in entries:
        try:
            for endpoint in entry["endpoints"]:
                url = str(endpoint["url"]).replace("{format}", "json")
                if urlsplit(url).scheme not in ("http", "https"):
                    raise ValueError(f"{url!r:.80} is not a URL")
                pages = tuple(_pattern(str(scheme)) for scheme in endpoint.get("schemes", ()))
                providers.append(OEmbedProvider(url, pages))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a provider lacks {error}") from None
    return providers


def endpoint_for(providers: Iterable[OEmbedProvider], url: str) -> str | None:
    """Return the request URL of the first provider that describes a page."""
    return next((found for provider in providers if (found := provider.url_for(url))), None)


def parse_response(body: bytes) -> dict[str, Any]:
    """Parse an oEmbed response. Raises: ValueError."""
    answer = orjson.loads(body)
    # "1.0" is the only version; some providers send a number.
    if not isinstance(answer, dict) or str(answer.get("version")) not in ("1.0", "1"):
        raise ValueError("not an oEmbed response")
    return answer


def html_in(answer: Mapping[str, Any]) -> str | None:
    """Return the HTML of a `rich` response, whose text describes the page."""
    html = answer.get("html")
    return html if answer.get("type") == "rich" and isinstance(html, str) else None


def draft_of_oembed(
    answer: Mapping[str, Any], html: PageFacts | None, page_url: str
) -> PreviewDraft:
    """Return the preview of a page from an oEmbed response."""
    properties: Properties = {}
    title = _text(answer, "title") or _text(answer, "author_name")
    if title:
        properties["og:title"] = title
    if site := _text(answer, "provider_name"):
        properties["og:site_name"] = site
    properties["og:url"] = _text(answer, "url") or page_url
    images: list[str] = []
    if answer.get("type") == "photo" and (photo := _text(answer, "url")):
        images.append(photo)
        properties["og:url"] = page_url
    if thumbnail := _text(answer, "thumbnail_url"):
        images.append(thumbnail)
    if answer.get("type") == "video":
        properties["og:type"] = "video.other"
    if html is not None:
        html_draft = draft_of(html, page_url)
        if text := " ".join(html.paragraphs):
            properties["og:description"] = shortened(text)
        images += html_draft.images
    return PreviewDraft(properties, tuple(image for image in images if _is_web(image)))


def cache_age_s(answer: Mapping[str, Any]) -> int | None:
    """Return the cache lifetime of a response, if it specifies one."""
    age = answer.get("cache_age")
    if isinstance(age, str) and age.isdecimal() and len(age) < 12:
        return int(age)
    return age if isinstance(age, int) and age >= 0 else None


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return one_line(value, MAX_VALUE_CHARS) if isinstance(value, str) else ""


def _is_web(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def _pattern(glob: str) -> re.Pattern[str]:
    """Convert a provider's URL scheme to a pattern; wildcards in the host match only host names."""
    scheme, _, location = glob.partition("://")
    host, slash, path = location.partition("/")
    hosts = "[^/?#@:]+".join(map(re.escape, host.split("*")))
    paths = ".*".join(map(re.escape, path.split("*")))
    scheme_pattern = "https?" if scheme in ("http", "https") else re.escape(scheme)
    return re.compile(f"{scheme_pattern}://{hosts}{slash}{paths}", re.IGNORECASE | re.DOTALL)
