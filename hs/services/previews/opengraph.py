"""From what a page says about itself to what clients show of it: OpenGraph, with fallbacks.

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
# Smaller images are dots for counting, lines and icons.
LEAST_IMAGE_PIXELS = 10 * 10

Properties = dict[str, str | int]


@attrs.frozen
class Draft:
    """A preview whose image is still elsewhere: `images` are its URLs, the best first."""

    properties: Properties
    images: tuple[str, ...] = ()

    def over(self, other: "Draft") -> "Draft":
        """Give this one, with what it lacks from another."""
        return Draft({**other.properties, **self.properties}, self.images or other.images)


def draft_of(facts: PageFacts, page_url: str) -> Draft:
    """Choose what to show of a page."""
    said = facts.properties
    found: Properties = {
        name: value[:MAX_VALUE_CHARS]
        for name, value in said.items()
        if name.startswith("og:") and not name.startswith("og:image")
    }
    found = dict(list(found.items())[:MAX_PROPERTIES])
    title = _first(said, "og:title", "twitter:title") or facts.title
    title = title or next(iter(facts.headings), "")
    description = _first(said, "og:description", "twitter:description", "description")
    description = description or " ".join(facts.paragraphs)
    if title:
        found["og:title"] = title[:MAX_VALUE_CHARS]
    if description:
        found["og:description"] = shortened(description)
    if "og:site_name" not in found and "twitter:site" in said:
        found["og:site_name"] = said["twitter:site"][:MAX_VALUE_CHARS]
    return Draft(found, tuple(_absolute(_base(facts, page_url), _images(facts))))


def oembed_link(facts: PageFacts, page_url: str) -> str | None:
    """Give where a page says that its oEmbed description is."""
    for rel, kind, href in facts.links:
        if "alternate" in rel.split() and kind == "application/json+oembed":
            return next(iter(_absolute(_base(facts, page_url), [href])), None)
    return None


def shortened(text: str) -> str:
    """Cut a text after a word."""
    if len(text) <= MAX_DESCRIPTION_CHARS:
        return text
    cut = text[:MAX_DESCRIPTION_CHARS]
    return (cut.rpartition(" ")[0] or cut).rstrip(" ,;:.-–") + "…"


def _first(said: Mapping[str, str], *names: str) -> str:
    return next((said[name] for name in names if said.get(name)), "")


def _images(facts: PageFacts) -> Iterable[str]:
    said = facts.properties
    names = (
        "og:image:secure_url",
        "og:image",
        "og:image:url",
        "twitter:image",
        "twitter:image:src",
    )
    for name in (*names, "image", "thumbnailurl"):
        if name in said:
            yield said[name]
    for rel, _, href in facts.links:
        if "image_src" in rel.split():
            yield href
    large = [image for image in facts.images if _pixels(image) > LEAST_IMAGE_PIXELS]
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
        # The page names one that is no URL.
        return page_url


def _absolute(base: str, urls: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for url in urls:
        try:
            whole = urljoin(base, url.strip())
            scheme = urlsplit(whole).scheme
        except ValueError:
            continue
        if scheme in ("http", "https"):
            found[whole] = None
        if len(found) >= MAX_IMAGES:
            break
    return list(found)
