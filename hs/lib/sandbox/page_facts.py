"""What is asked of `hs.lib.sandbox.html_pages`, which runs in a sandbox, and what it answers."""

import attrs
import msgspec

READ_PAGE = "hs.lib.sandbox.html_pages:read_page"


@attrs.frozen
class PageJob:
    """A page as it came; `charset` is what its header says."""

    body: bytes
    charset: str | None = None


@attrs.frozen
class PageImage:
    """An image in a page; sizes are 0 where the page does not tell them."""

    url: str
    width: int = 0
    height: int = 0


@attrs.frozen
class PageFacts:
    """What a page says about itself. Texts are bounded, with their white space collapsed.

    `properties` are the first values of `<meta>` elements by property, name or itemprop, in lower
    case; `links` are (rel, type, href).
    """

    title: str = ""
    properties: dict[str, str] = attrs.Factory(dict)
    links: tuple[tuple[str, str, str], ...] = ()
    headings: tuple[str, ...] = ()
    paragraphs: tuple[str, ...] = ()
    images: tuple[PageImage, ...] = ()
    base_url: str = ""


def encode(value: PageJob | PageFacts) -> bytes:
    """Write a job or facts."""
    return msgspec.msgpack.encode(value)


def read_job(payload: bytes) -> PageJob:
    """Read a job."""
    return msgspec.msgpack.decode(payload, type=PageJob)


def read_facts(payload: bytes) -> PageFacts:
    """Read facts. Raises: msgspec.DecodeError."""
    return msgspec.msgpack.decode(payload, type=PageFacts)
