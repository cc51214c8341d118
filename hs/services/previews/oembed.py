"""oEmbed: sites that describe their pages by an endpoint. Spec: https://oembed.com/."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import attrs
import orjson

from hs.lib.plain_text import one_line
from hs.lib.sandbox.page_facts import PageFacts
from hs.services.previews.opengraph import MAX_VALUE_CHARS, Draft, Properties, draft_of, shortened

MAX_ANSWER_BYTES = 512 * 1024

# Large sites whose pages say little, or nothing to programs.
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
class Provider:
    """An endpoint and the URLs it describes."""

    endpoint: str
    pages: tuple[re.Pattern[str], ...]

    def url_for(self, url: str) -> str | None:
        """Give what to ask about a URL, or None."""
        if not any(page.fullmatch(url) for page in self.pages):
            return None
        query = urlencode({"url": url, "format": "json"})
        return f"{self.endpoint}{'&' if '?' in self.endpoint else '?'}{query}"


def shipped_providers() -> list[Provider]:
    """Give the providers that are known without being configured."""
    return [Provider(endpoint, tuple(map(_pattern, pages))) for endpoint, pages in PROVIDERS]


def read_providers(text: bytes) -> list[Provider]:
    """Read a list in the form of https://oembed.com/providers.json. Raises: ValueError."""
    listed = orjson.loads(text)
    if not isinstance(listed, list):
        raise ValueError("it holds no list")
    found = []
    for provider in listed:
        try:
            for endpoint in provider["endpoints"]:
                url = str(endpoint["url"]).replace("{format}", "json")
                if urlsplit(url).scheme not in ("http", "https"):
                    raise ValueError(f"{url!r:.80} is not a URL")
                pages = tuple(_pattern(str(scheme)) for scheme in endpoint.get("schemes", ()))
                found.append(Provider(url, pages))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a provider lacks {error}") from None
    return found


def endpoint_for(providers: Iterable[Provider], url: str) -> str | None:
    """Give what to ask about a URL, if a provider describes it."""
    return next((found for one in providers if (found := one.url_for(url))), None)


def read_answer(body: bytes) -> dict[str, Any]:
    """Read an oEmbed answer. Raises: ValueError."""
    answer = orjson.loads(body)
    # "1.0" is the only version; some send it as a number.
    if not isinstance(answer, dict) or str(answer.get("version")) not in ("1.0", "1"):
        raise ValueError("not an oEmbed answer")
    return answer


def html_in(answer: Mapping[str, Any]) -> str | None:
    """Give the HTML whose text describes the page, if there is any."""
    html = answer.get("html")
    return html if answer.get("type") == "rich" and isinstance(html, str) else None


def draft_of_oembed(answer: Mapping[str, Any], html: PageFacts | None, page_url: str) -> Draft:
    """Choose what to show of a page that an oEmbed answer describes."""
    found: Properties = {}
    title = _text(answer, "title") or _text(answer, "author_name")
    if title:
        found["og:title"] = title
    if site := _text(answer, "provider_name"):
        found["og:site_name"] = site
    found["og:url"] = _text(answer, "url") or page_url
    images: list[str] = []
    if answer.get("type") == "photo" and (photo := _text(answer, "url")):
        images.append(photo)
        found["og:url"] = page_url
    if thumbnail := _text(answer, "thumbnail_url"):
        images.append(thumbnail)
    if answer.get("type") == "video":
        found["og:type"] = "video.other"
    if html is not None:
        inside = draft_of(html, page_url)
        if text := " ".join(html.paragraphs):
            found["og:description"] = shortened(text)
        images += inside.images
    return Draft(found, tuple(image for image in images if _is_web(image)))


def cache_age_s(answer: Mapping[str, Any]) -> int | None:
    """Give how long the provider lets its answer be kept."""
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
    """Turn a scheme of a provider into a pattern; what stands for the host stays within it."""
    scheme, _, rest = glob.partition("://")
    host, slash, path = rest.partition("/")
    hosts = "[^/?#@:]+".join(map(re.escape, host.split("*")))
    paths = ".*".join(map(re.escape, path.split("*")))
    either = "https?" if scheme in ("http", "https") else re.escape(scheme)
    return re.compile(f"{either}://{hosts}{slash}{paths}", re.IGNORECASE | re.DOTALL)
