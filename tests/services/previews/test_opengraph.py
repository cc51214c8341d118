"""What is shown of a page: what it says itself, or the next best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.sandbox.page_facts import PageFacts, PageImage
from hs.services.previews.opengraph import (
    MAX_DESCRIPTION_CHARS,
    Draft,
    draft_of,
    oembed_link,
    shortened,
)

URL = "https://example.org/a/b?c"


def shown(**facts: object) -> dict[str, str | int]:
    return draft_of(PageFacts(**facts), URL).properties  # type: ignore[arg-type]  # fields by name


def images(**facts: object) -> tuple[str, ...]:
    return draft_of(PageFacts(**facts), URL).images  # type: ignore[arg-type]  # fields by name


def test_what_a_page_says_for_this_purpose_wins() -> None:
    properties = {"og:title": "og", "twitter:title": "t", "og:type": "website", "other": "x"}

    assert shown(title="T", properties=properties) == {"og:title": "og", "og:type": "website"}


def test_twitter_cards_come_next() -> None:
    properties = {"twitter:title": "t", "twitter:description": "d", "twitter:site": "@s"}

    assert shown(title="T", properties=properties) == {
        "og:title": "t",
        "og:description": "d",
        "og:site_name": "@s",
    }


@pytest.mark.parametrize(
    ("facts", "title"),
    [({"title": "T", "headings": ("H",)}, "T"), ({"headings": ("H", "I")}, "H"), ({}, None)],
)
def test_a_title_is_looked_for(facts: dict[str, object], title: str | None) -> None:
    assert shown(**facts).get("og:title") == title


def test_a_description_is_looked_for() -> None:
    assert shown(properties={"description": "d"}, paragraphs=("p",))["og:description"] == "d"
    assert shown(paragraphs=("One.", "Two."))["og:description"] == "One. Two."


def test_images_are_absolute_and_the_best_is_first() -> None:
    properties = {"og:image": "/i.png", "twitter:image": "//cdn.example.org/t.png"}

    assert images(properties=properties) == (
        "https://example.org/i.png",
        "https://cdn.example.org/t.png",
    )
    assert images(properties={"og:image": "i.png"}, base_url="/base/") == (
        "https://example.org/base/i.png",
    )


def test_images_of_the_page_stand_in() -> None:
    found = images(
        images=(PageImage("dot.gif", 1, 1), PageImage("s.png", 20, 20), PageImage("l.png", 99, 99)),
        links=(("shortcut icon", "", "/favicon.ico"),),
    )

    assert found == (
        "https://example.org/a/l.png",
        "https://example.org/a/s.png",
        "https://example.org/favicon.ico",
    )


@pytest.mark.parametrize("url", ["data:image/png;base64,x", "javascript:1", "http://[::1", ""])
def test_images_that_are_not_on_the_web_are_none(url: str) -> None:
    assert not [one for one in images(properties={"og:image": url}) if url and one.startswith(url)]


def test_the_oembed_link_is_found() -> None:
    links = (
        ("alternate", "application/rss+xml", "/rss"),
        ("alternate", "application/json+oembed", "/o"),
    )

    assert oembed_link(PageFacts(links=links), URL) == "https://example.org/o"
    assert oembed_link(PageFacts(), URL) is None


def test_what_one_lacks_the_other_gives() -> None:
    draft = Draft({"og:title": "a"}).over(Draft({"og:title": "b", "og:type": "c"}, ("i",)))

    assert draft == Draft({"og:title": "a", "og:type": "c"}, ("i",))


@given(st.text(max_size=1000))
def test_descriptions_are_short(text: str) -> None:
    assert len(shortened(text)) <= MAX_DESCRIPTION_CHARS + 1


def test_descriptions_end_after_a_word() -> None:
    assert shortened("word " * 100) == ("word " * 60).rstrip() + "…"


def test_values_are_bounded() -> None:
    properties = {f"og:{number}": "x" * 2000 for number in range(200)}

    found = shown(properties=properties)

    assert len(found) <= 50
    assert {len(str(value)) for value in found.values()} == {1000}


@pytest.mark.parametrize("base_url", ["http://[", "//a]b/", "http://℀.example/"])
def test_a_base_that_is_no_url_is_passed_over(base_url: str) -> None:
    link = ("alternate", "application/json+oembed", "/oembed")
    facts = PageFacts(base_url=base_url, links=(link,), properties={"og:image": "i.png"})

    assert draft_of(facts, URL).images == ("https://example.org/a/i.png",)
    assert oembed_link(facts, URL) == "https://example.org/oembed"
