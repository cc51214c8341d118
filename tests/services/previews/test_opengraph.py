"""The OpenGraph properties of a page, and their fallbacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.sandbox.page_facts import PageFacts, PageImage
from hs.services.previews.opengraph import (
    MAX_DESCRIPTION_CHARS,
    PreviewDraft,
    draft_of,
    oembed_link,
    shortened,
)

URL = "https://example.org/a/b?c"


def properties_of(**facts: object) -> dict[str, str | int]:
    return draft_of(PageFacts(**facts), URL).properties  # type: ignore[arg-type]  # fields by name


def images(**facts: object) -> tuple[str, ...]:
    return draft_of(PageFacts(**facts), URL).images  # type: ignore[arg-type]  # fields by name


def test_opengraph_metadata_takes_precedence() -> None:
    properties = {"og:title": "og", "twitter:title": "t", "og:type": "website", "other": "x"}

    assert properties_of(title="T", properties=properties) == {
        "og:title": "og",
        "og:type": "website",
    }


def test_twitter_cards_are_the_first_fallback() -> None:
    properties = {"twitter:title": "t", "twitter:description": "d", "twitter:site": "@s"}

    assert properties_of(title="T", properties=properties) == {
        "og:title": "t",
        "og:description": "d",
        "og:site_name": "@s",
    }


@pytest.mark.parametrize(
    ("facts", "title"),
    [({"title": "T", "headings": ("H",)}, "T"), ({"headings": ("H", "I")}, "H"), ({}, None)],
)
def test_title_falls_back_to_headings(facts: dict[str, object], title: str | None) -> None:
    assert properties_of(**facts).get("og:title") == title


def test_description_falls_back_to_paragraphs() -> None:
    assert (
        properties_of(properties={"description": "d"}, paragraphs=("p",))["og:description"] == "d"
    )
    assert properties_of(paragraphs=("One.", "Two."))["og:description"] == "One. Two."


def test_image_urls_are_absolute_and_the_best_is_first() -> None:
    properties = {"og:image": "/i.png", "twitter:image": "//cdn.example.org/t.png"}

    assert images(properties=properties) == (
        "https://example.org/i.png",
        "https://cdn.example.org/t.png",
    )
    assert images(properties={"og:image": "i.png"}, base_url="/base/") == (
        "https://example.org/base/i.png",
    )


def test_images_fall_back_to_images_of_the_page() -> None:
    urls = images(
        images=(PageImage("dot.gif", 1, 1), PageImage("s.png", 20, 20), PageImage("l.png", 99, 99)),
        links=(("shortcut icon", "", "/favicon.ico"),),
    )

    assert urls == (
        "https://example.org/a/l.png",
        "https://example.org/a/s.png",
        "https://example.org/favicon.ico",
    )


@pytest.mark.parametrize("url", ["data:image/png;base64,x", "javascript:1", "http://[::1", ""])
def test_image_urls_with_other_schemes_are_ignored(url: str) -> None:
    found = images(properties={"og:image": url})

    assert not [image for image in found if url and image.startswith(url)]


def test_oembed_link_is_found() -> None:
    links = (
        ("alternate", "application/rss+xml", "/rss"),
        ("alternate", "application/json+oembed", "/o"),
    )

    assert oembed_link(PageFacts(links=links), URL) == "https://example.org/o"
    assert oembed_link(PageFacts(), URL) is None


def test_fallback_adds_missing_properties() -> None:
    draft = PreviewDraft({"og:title": "a"}).with_fallback(
        PreviewDraft({"og:title": "b", "og:type": "c"}, ("i",))
    )

    assert draft == PreviewDraft({"og:title": "a", "og:type": "c"}, ("i",))


@given(st.text(max_size=1000))
def test_descriptions_are_truncated(text: str) -> None:
    assert len(shortened(text)) <= MAX_DESCRIPTION_CHARS + 1


def test_descriptions_are_truncated_after_a_word() -> None:
    assert shortened("word " * 100) == ("word " * 60).rstrip() + "…"


def test_number_and_length_of_properties_are_limited() -> None:
    properties = {f"og:{number}": "x" * 2000 for number in range(200)}

    limited = properties_of(properties=properties)

    assert len(limited) <= 50
    assert {len(str(value)) for value in limited.values()} == {1000}


@pytest.mark.parametrize("base_url", ["http://[", "//a]b/", "http://℀.example/"])
def test_invalid_base_url_is_ignored(base_url: str) -> None:
    link = ("alternate", "application/json+oembed", "/oembed")
    facts = PageFacts(base_url=base_url, links=(link,), properties={"og:image": "i.png"})

    assert draft_of(facts, URL).images == ("https://example.org/a/i.png",)
    assert oembed_link(facts, URL) == "https://example.org/oembed"
