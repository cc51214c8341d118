"""Extraction of metadata from HTML pages; runs in a sandbox, as pages are untrusted."""

from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from hs.lib.plain_text import one_line
from hs.lib.sandbox.charsets import decode_page
from hs.lib.sandbox.page_facts import PageFacts, PageImage, encode, read_job

MAX_PROPERTIES = 200
MAX_LINKS = 100
MAX_HEADINGS = 5
MAX_PARAGRAPHS = 20
MAX_IMAGES = 50
MAX_TEXT_CHARS = 2000
MAX_URL_CHARS = 4096
# Elements that do not belong to the text of a page.
NON_TEXT_ELEMENTS = [
    *("script", "style", "noscript", "template", "svg", "iframe", "canvas", "nav", "header"),
    *("footer", "aside", "form", "button", "select", "textarea", "dialog"),
]


def read_page(payload: bytes) -> bytes:
    """Run a `PageJob` and return `PageFacts`, both encoded."""
    job = read_job(payload)
    page = LexborHTMLParser(decode_page(job.body, job.charset))
    facts = PageFacts(
        title=_first_text(page, "head title") or _first_text(page, "title"),
        properties=_properties(page),
        links=tuple(_links(page)),
        base_url=_base(page),
        images=tuple(_images(page)),
        headings=tuple(_texts(page, "h1, h2, h3", MAX_HEADINGS)),
        paragraphs=tuple(_paragraphs(page)),
    )
    return encode(facts)


def _properties(page: LexborHTMLParser) -> dict[str, str]:
    properties: dict[str, str] = {}
    for node in page.css("meta[content]"):
        attributes = node.attributes
        content = _collapsed(attributes.get("content") or "")
        names = (attributes.get(kind) for kind in ("property", "name", "itemprop"))
        for name in names:
            if name and content and len(name) <= 100:
                properties.setdefault(name.strip().lower(), content)
        if len(properties) >= MAX_PROPERTIES:
            break
    return properties


def _links(page: LexborHTMLParser) -> Iterator[tuple[str, str, str]]:
    for node in page.css("link[rel][href]")[:MAX_LINKS]:
        attributes = node.attributes
        href = (attributes.get("href") or "").strip()
        if href and len(href) <= MAX_URL_CHARS:
            rel, kind = attributes.get("rel") or "", attributes.get("type") or ""
            yield rel.lower()[:100], kind.lower()[:100], href


def _base(page: LexborHTMLParser) -> str:
    node = page.css_first("base[href]")
    href = (node.attributes.get("href") or "").strip() if node is not None else ""
    return href if len(href) <= MAX_URL_CHARS else ""


def _images(page: LexborHTMLParser) -> Iterator[PageImage]:
    for node in page.css("img[src]")[:MAX_IMAGES]:
        attributes = node.attributes
        src = (attributes.get("src") or "").strip()
        if src and len(src) <= MAX_URL_CHARS:
            yield PageImage(
                src, _pixels(attributes.get("width")), _pixels(attributes.get("height"))
            )


def _pixels(text: str | None) -> int:
    text = (text or "").strip().removesuffix("px")
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def _paragraphs(page: LexborHTMLParser) -> Iterator[str]:
    """Yield the paragraphs of the page, or else the text of the whole page.

    This removes elements from `page`, so it must come last.
    """
    page.strip_tags(NON_TEXT_ELEMENTS)
    for node in page.css("br"):
        node.replace_with(" ")
    for selector in ("main p, article p", "p"):
        texts = _texts(page, selector, MAX_PARAGRAPHS)
        if texts:
            yield from texts
            return
    if page.body is not None:
        text = _collapsed(page.body.text(separator=" "))
        if text:
            yield text


def _texts(page: LexborHTMLParser, selector: str, most: int) -> list[str]:
    texts = (_text_of(node) for node in page.css(selector)[: most * 3])
    return [text for text in texts if text][:most]


def _first_text(page: LexborHTMLParser, selector: str) -> str:
    node = page.css_first(selector)
    return "" if node is None else _text_of(node)


def _text_of(node: LexborNode) -> str:
    return _collapsed(node.text())


def _collapsed(text: str) -> str:
    return one_line(text, MAX_TEXT_CHARS)
