"""The OpenGraph properties of a page, with fallbacks to other metadata and the text.

Spec: client-server API, URL previews; https://ogp.me/.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import urljoin, urlsplit

import attrs

from hs.lib.sandbox.page_facts import PageFacts, PageImage

MAX_PROPERTIES = 50
MAX_VALUE_CHARS = 1000
MAX_DESCRIPTION_CHARS = 300
MAX_IMAGES = 3
# Smaller images are tracking pixels, lines and icons.
MIN_IMAGE_PIXELS = 10 * 10

Properties = dict[str, str | int]


@attrs.frozen
class PreviewDraft:
    """A preview whose image is not fetched yet; `images` are candidate URLs, the best first."""

    properties: Properties
    images: tuple[str, ...] = ()

    def with_fallback(self, fallback: "PreviewDraft") -> "PreviewDraft":
        """Return this preview, with missing properties from another one."""
        return PreviewDraft(
            {**fallback.properties, **self.properties}, self.images or fallback.images
        )


def draft_of(facts: PageFacts, page_url: str) -> PreviewDraft:
    """Return the preview of a page."""
    metadata = facts.properties
    properties: Properties = {
        name: value[:MAX_VALUE_CHARS]
        for name, value in metadata.items()
        if name.startswith("og:") and not name.startswith("og:image")
    }
    properties = dict(list(properties.items())[:MAX_PROPERTIES])
    title = _first(metadata, "og:title", "twitter:title") or facts.title
    title = title or next(iter(facts.headings), "")
    description = _first(metadata, "og:description", "twitter:description", "description")
    description = description or " ".join(facts.paragraphs)
    if title:
        properties["og:title"] = title[:MAX_VALUE_CHARS]
    if description:
        properties["og:description"] = shortened(description)
    if "og:site_name" not in properties and "twitter:site" in metadata:
        properties["og:site_name"] = metadata["twitter:site"][:MAX_VALUE_CHARS]
    return PreviewDraft(properties, tuple(_absolute(_base(facts, page_url), _images(facts))))


def oembed_link(facts: PageFacts, page_url: str) -> str | None:
    """Return the URL of the page's oEmbed description, if it links to one."""
    for rel, kind, href in facts.links:
        if "alternate" in rel.split() and kind == "application/json+oembed":
            return next(iter(_absolute(_base(facts, page_url), [href])), None)
    return None


def shortened(text: str) -> str:
    """Return a text truncated after a word."""
    if len(text) <= MAX_DESCRIPTION_CHARS:
        return text
    truncated = text[:MAX_DESCRIPTION_CHARS]
    return (truncated.rpartition(" ")[0] or truncated).rstrip(" ,;:.-–") + "…"


def _first(metadata: Mapping[str, str], *names: str) -> str:
    return next((metadata[name] for name in names if metadata.get(name)), "")


def _images(facts: PageFacts) -> Iterable[str]:
    metadata = facts.properties
    names = (
        "og:image:secure_url",
        "og:image",
        "og:image:url",
        "twitter:image",
        "twitter:image:src",
    )
    for name in (*names, "image", "thumbnailurl"):
        if name in metadata:
            yield metadata[name]
    for rel, _, href in facts.links:
        if "image_src" in rel.split():
            yield href
    large = [image for image in facts.images if _pixels(image) > MIN_IMAGE_PIXELS]
    yield from (image.url for image in sorted(large, key=_pixels, reverse=True))
    yield from (image.url for image in facts.images if not _pixels(image))
    for rel, _, href in facts.links:
        if {"apple-touch-icon", "icon"} & set(rel.split()):
            yield href


def _pixels(image: PageImage) -> int:
    return image.width * image.height


def _base(facts: PageFacts, page_url: str) -> str:
    try:
        return urljoin(page_url, facts.base_url)
    except ValueError:
        # The base URL of the page is invalid.
        return page_url


def _absolute(base: str, urls: Iterable[str]) -> list[str]:
    absolute_urls: dict[str, None] = {}
    for url in urls:
        try:
            absolute_url = urljoin(base, url.strip())
            scheme = urlsplit(absolute_url).scheme
        except ValueError:
            continue
        if scheme in ("http", "https"):
            absolute_urls[absolute_url] = None
        if len(absolute_urls) >= MAX_IMAGES:
            break
    return list(absolute_urls)
