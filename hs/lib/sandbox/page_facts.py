"""The input and output of `hs.lib.sandbox.html_pages`, which runs in a sandbox."""

import attrs
import msgspec

READ_PAGE = "hs.lib.sandbox.html_pages:read_page"


@attrs.frozen
class PageJob:
    """A page as received; `charset` is the one in its HTTP header."""

    body: bytes
    charset: str | None = None


@attrs.frozen
class PageImage:
    """An image in a page; the size is 0 if the page does not specify it."""

    url: str
    width: int = 0
    height: int = 0


@attrs.frozen
class PageFacts:
    """The metadata of a page; texts are of bounded length, with white space collapsed.

    `properties` has the first value of `<meta>` elements by property, name or itemprop in lower
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
    """Encode a job or facts."""
    return msgspec.msgpack.encode(value)


def read_job(payload: bytes) -> PageJob:
    """Decode a job."""
    return msgspec.msgpack.decode(payload, type=PageJob)


def read_facts(payload: bytes) -> PageFacts:
    """Decode facts.

    Raises: msgspec.DecodeError.
    """
    return msgspec.msgpack.decode(payload, type=PageFacts)
