"""oEmbed: the choice of endpoint, and the parsing of responses."""

import orjson
import pytest

from hs.lib.sandbox.page_facts import PageFacts
from hs.services.previews.oembed import (
    built_in_providers,
    cache_age_s,
    draft_of_oembed,
    endpoint_for,
    html_in,
    parse_providers,
    parse_response,
)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://twitter.com/matrixdotorg/status/1", "https://publish.twitter.com/oembed?"),
        ("https://x.com/matrixdotorg/status/1", "https://publish.twitter.com/oembed?"),
        ("https://www.youtube.com/watch?v=a", "https://www.youtube.com/oembed?"),
        ("https://youtu.be/a", "https://www.youtube.com/oembed?"),
        ("https://twitter.com/matrixdotorg", None),
        ("https://evil.org/?https://twitter.com/a/status/1", None),
        ("https://evil.org/.twitter.com/a/status/1", None),
        ("https://twitter.com@evil.org/a/status/1", None),
        ("https://user:x@a.twitter.com/a/status/1", None),
    ],
)
def test_built_in_provider_is_chosen_by_the_url(url: str, endpoint: str | None) -> None:
    request_url = endpoint_for(built_in_providers(), url)

    assert request_url is None if endpoint is None else str(request_url).startswith(endpoint)


def test_request_url_contains_the_page_url() -> None:
    request_url = endpoint_for(built_in_providers(), "https://youtu.be/a?b=c&d")

    assert (
        request_url
        == "https://www.youtube.com/oembed?url=https%3A%2F%2Fyoutu.be%2Fa%3Fb%3Dc%26d&format=json"
    )


def test_provider_list_is_parsed() -> None:
    endpoints = [{"schemes": ["https://a.test/*"], "url": "https://a.test/o.{format}?k=1"}]
    text = orjson.dumps([{"provider_name": "A", "endpoints": endpoints}])

    request_url = endpoint_for(parse_providers(text), "https://a.test/page")

    assert request_url == "https://a.test/o.json?k=1&url=https%3A%2F%2Fa.test%2Fpage&format=json"


@pytest.mark.parametrize("text", ["{}", "[{}]", "[1]", '[{"endpoints": [{"url": "x"}]}]', "x"])
def test_invalid_provider_list_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        parse_providers(text.encode())


def test_photo_is_the_image_of_the_preview() -> None:
    answer = {"type": "photo", "url": "https://a.test/p.png", "title": "P", "version": "1.0"}

    draft = draft_of_oembed(answer, None, "https://a.test/page")

    assert draft.properties == {"og:title": "P", "og:url": "https://a.test/page"}
    assert draft.images == ("https://a.test/p.png",)


def test_video_has_its_thumbnail_as_image() -> None:
    answer = {"type": "video", "title": "V", "provider_name": "Tube", "thumbnail_url": "http://t/i"}

    draft = draft_of_oembed(answer, None, "https://a.test/page")

    assert draft.properties["og:site_name"] == "Tube"
    assert draft.properties["og:type"] == "video.other"
    assert draft.images == ("http://t/i",)


def test_rich_text_is_the_description_of_the_preview() -> None:
    answer = {"type": "rich", "html": "<p>x", "author_name": "Ada"}

    draft = draft_of_oembed(answer, PageFacts(paragraphs=("Said.", "Ada")), "https://a.test/page")

    assert html_in(answer) == "<p>x"
    assert draft.properties["og:title"] == "Ada"
    assert draft.properties["og:description"] == "Said. Ada"


@pytest.mark.parametrize("body", [b"{}", b'{"version":"2.0"}', b"[]", b"<xml>"])
def test_invalid_response_is_rejected(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_response(body)


@pytest.mark.parametrize(
    ("age", "seconds"), [("3600", 3600), (60, 60), (-1, None), ("x", None), (None, None)]
)
def test_cache_age_can_be_a_number_or_a_string(age: object, seconds: int | None) -> None:
    assert cache_age_s({"cache_age": age}) == seconds


@pytest.mark.parametrize("field", ["title", "author_name", "provider_name", "url", "html", "type"])
def test_fields_with_wrong_types_are_ignored(field: str) -> None:
    answer = {"version": "1.0", "type": "rich", field: {"a": 1}}

    draft_of_oembed(answer, None, "https://a.test/page")
    assert html_in(answer) is None
