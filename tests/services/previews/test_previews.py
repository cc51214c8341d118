"""Previews of a site on this machine: fetching, caching, sharing and blocking."""

import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import trio
import trio.testing

from hs.core.errors import Forbidden, LimitExceeded
from hs.core.ids import UserID
from hs.lib.aio import Bridge
from hs.lib.http_client import HttpFault
from hs.services.previews import preview_builder
from hs.services.previews.preview_builder import SLOW_HOST_S
from hs.services.previews.preview_cache import (
    FAULT_LIFE_S,
    MAX_CONCURRENT,
    MAX_CONCURRENT_OF_USER,
    MAX_WAITING,
    MAX_WAITING_OF_USER,
    UrlPreviews,
)
from hs.services.previews.preview_fetcher import NotFetched, PreviewFetcher
from hs.services.previews.preview_images import UNUSED_LIFE_MS
from hs.settings.errors import Origin
from hs.settings.kinds import ConfigLocation
from hs.settings.sections.previews import URL_RULES, OembedSettings, PreviewSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.appservices import FakeServices
from tests.support.composition import ComposedProcess, open_process
from tests.support.media import media_settings, picture
from tests.support.servers.sites import Site, SiteRequest, SiteResponse, open_site

MAX_BYTES = 1 << 20
# Enough to parse a page even on a slow machine.
LONG_S = 60.0
HOUR_MS = 3_600_000
PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


@attrs.frozen(eq=False)
class World:
    """A site, and a process that may fetch from it."""

    site: Site
    process: ComposedProcess

    @property
    def previews(self) -> UrlPreviews:
        """The previews."""
        previews = self.process.services.previews.previews
        assert previews is not None
        return previews

    async def preview_of(self, path: str, name: str = "alice") -> dict[str, Any]:
        """Return the preview of a path of the site, as a user gets it."""
        url, user_id = self.site.url(path), UserID(f"@{name}:test")
        answer: dict[str, Any] = orjson.loads(await self.previews.preview(url, user_id))
        return answer

    async def clean_up(self) -> None:
        """Clean up, as the process does once an hour."""
        await self.process.run_duty("preview cleanup")


def rules_of(*rules: dict[str, str]) -> Any:
    return URL_RULES.read(list(rules), ConfigLocation(("rules",), Path(), [], Origin()))


def settings_for(site: Site, folder: Path) -> Settings:
    """Return the settings of a server that may fetch from this machine."""
    providers = folder / "providers.json"
    endpoints = [{"schemes": [site.url("/described/*")], "url": site.url("/oembed")}]
    providers.write_bytes(orjson.dumps([{"endpoints": endpoints}]))
    blocked = [{"path": "/forbidden/*"}, {"port": "^0*81$"}, {"username": "*"}]
    previews = PreviewSettings(
        url_preview_enabled=True,
        url_preview_ip_range_whitelist=("127.0.0.1/32",),
        url_preview_url_blacklist=rules_of(*blocked),
        url_preview_accept_language=("de", "en;q=0.5"),
        max_spider_size=MAX_BYTES,
        oembed=OembedSettings(disable_default_providers=True, additional_providers=(providers,)),
    )
    return attrs.evolve(media_settings(folder), previews=previews)


@pytest.fixture
async def world(
    database: Database, bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(preview_builder, "PARSE_S", LONG_S)
    async with open_site() as site:
        settings = settings_for(site, tmp_path)
        async with open_process(database, settings, bridge=bridge) as process:
            yield World(site, process)


async def test_preview_of_a_page_contains_its_image(world: World) -> None:
    world.site.html("/a", '<meta property=og:title content=T><meta property=og:image content="i">')
    world.site.pages["/i"] = SiteResponse(picture(20, 10), headers=PNG)

    preview = await world.preview_of("/a")

    assert preview["og:title"] == "T"
    assert (preview["og:image:type"], preview["og:image:width"], preview["og:image:height"]) == (
        "image/png",
        20,
        10,
    )
    assert preview["matrix:image:size"] == len(picture(20, 10))
    assert world.site.requests[0].headers["accept-language"] == "de, en;q=0.5"


async def test_preview_of_a_slow_page_is_not_cached_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_builder, "PARSE_S", 0.0)
    world.site.html("/a", "<title>T</title>")

    previews = [await world.preview_of("/a") for _ in range(2)]
    world.process.clock.advance(int(SLOW_HOST_S * 1000) + 1)
    previews.append(await world.preview_of("/a"))

    assert previews == [{}, {}, {}]
    assert len(world.site.requests) == 2


async def test_invalid_images_are_not_stored(world: World) -> None:
    world.site.html("/a", "<title>T</title><img src=bad><img src=svg><img src=gone>")
    world.site.pages["/bad"] = SiteResponse(b"this is no picture", headers=PNG)
    world.site.pages["/svg"] = SiteResponse(b"<svg/>", headers={"content-type": "image/svg+xml"})

    assert await world.preview_of("/a") == {"og:title": "T"}
    assert await world.process.base.database.read(count_media) == 0


async def count_media(tx: Any) -> int:
    return int(await tx.fetchval("SELECT count(*) FROM media"))


async def test_next_image_is_used_if_the_first_is_missing(world: World) -> None:
    world.site.html("/a", "<meta property=og:image content=/gone><img src=i>")
    world.site.pages["/i"] = SiteResponse(picture(20, 10), headers=PNG)

    assert "og:image" in await world.preview_of("/a")


async def test_preview_of_an_image_url_is_the_image(world: World) -> None:
    world.site.pages["/a/cat%20.png"] = SiteResponse(picture(20, 10), headers=PNG)

    preview = await world.preview_of("/a/cat .png")

    assert (preview["og:title"], preview["og:image:width"]) == ("cat .png", 20)


@pytest.mark.parametrize(
    "content_type", ["application/pdf", "video/mp4", "application/json", "text/plain"]
)
async def test_preview_of_other_content_is_empty(world: World, content_type: str) -> None:
    world.site.pages["/a"] = SiteResponse(
        b"<title>no page</title>", headers={"content-type": content_type}
    )

    assert await world.preview_of("/a") == {}


async def test_redirects_are_followed(world: World) -> None:
    world.site.pages["/a"] = SiteResponse(status=302, headers={"location": "/there/b"})
    world.site.html("/there/b", "<title>T</title><img src=i>")
    world.site.pages["/there/i"] = SiteResponse(picture(20, 10), headers=PNG)

    assert "og:image" in await world.preview_of("/a")


@pytest.mark.parametrize("location", ["/forbidden/x", "http://a:b@127.0.0.1/", "http://x:0081/"])
async def test_redirects_to_blocked_urls_are_not_followed(world: World, location: str) -> None:
    world.site.pages["/a"] = SiteResponse(status=302, headers={"location": location})

    with pytest.raises((Forbidden, NotFetched)):
        await world.preview_of("/a")

    assert [asked.path for asked in world.site.requests] == ["/a"]


@pytest.mark.parametrize(
    ("part", "pattern", "is_blocked"),
    [
        ("netloc", "127.0.0.1:*", True),
        ("host", "127.0.0.1", True),
        ("hostname", "^127", True),
        ("scheme", "https", False),
        ("scheme", "http", True),
        ("username", "*", False),
        ("port", "*", True),
        ("path", "^/b", False),
        ("query", "*secret*", False),
    ],
)
def test_rules_block_urls(part: str, pattern: str, is_blocked: bool) -> None:
    fetcher = PreviewFetcher(FakeServices(), rules_of({part: pattern}), [])

    try:
        fetcher.normalized("http://127.0.0.1:8080/a")
    except Forbidden:
        assert is_blocked
    else:
        assert not is_blocked


@pytest.mark.parametrize(
    "url",
    [
        "http://internal.example/",
        "http://Internal.EXAMPLE/",
        "http://internal.example./",
        "http://internal.example:80/",
        "http://internal.example:/",
        "  http://internal.example:80  ",
        "http://INTERNAL.example.:80/",
    ],
)
@pytest.mark.parametrize("part", ["netloc", "host"])
def test_rules_apply_to_all_spellings_of_a_host(part: str, url: str) -> None:
    fetcher = PreviewFetcher(FakeServices(), rules_of({part: "^internal[.]example$"}), [])

    with pytest.raises(Forbidden):
        fetcher.normalized(url)
    fetcher.normalized("http://internal.example.org/")


def test_all_parts_of_a_rule_must_match() -> None:
    fetcher = PreviewFetcher(FakeServices(), rules_of({"scheme": "http", "path": "/a"}), [])

    fetcher.normalized("http://x.test/b")
    fetcher.normalized("https://x.test/a")
    with pytest.raises(Forbidden):
        fetcher.normalized("http://x.test/a")


async def test_large_pages_and_errors_raise_not_fetched(world: World) -> None:
    world.site.pages["/large"] = SiteResponse(
        bytes(MAX_BYTES + 1), headers={"content-type": "text/html"}
    )
    world.site.pages["/fails"] = SiteResponse(
        b"<title>oh</title>", 500, {"content-type": "text/html"}
    )

    for path in ("/large", "/fails", "/missing"):
        with pytest.raises(NotFetched):
            await world.preview_of(path)


async def test_preview_of_a_page_that_is_slow_to_parse_is_empty(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_builder, "PARSE_S", 2.0)
    world.site.html("/a", "<div>" * 200_000)
    world.site.html("/b", "<title>T</title>")

    assert await world.preview_of("/a") == {}
    assert await world.preview_of("/b") == {}, "pages of its host are not parsed for a while"


# oEmbed


async def test_configured_provider_describes_its_pages(world: World) -> None:
    answer = {
        "version": "1.0",
        "type": "video",
        "title": "V",
        "thumbnail_url": world.site.url("/i"),
    }
    world.site.pages["/oembed"] = SiteResponse(orjson.dumps(answer), headers=JSON)
    world.site.pages["/i"] = SiteResponse(picture(20, 10), headers=PNG)

    preview = await world.preview_of("/described/1")

    assert (preview["og:title"], preview["og:image:width"]) == ("V", 20)
    assert [asked.path.partition("?")[0] for asked in world.site.requests] == ["/oembed", "/i"]


async def test_page_itself_is_used_if_its_provider_fails(world: World) -> None:
    world.site.html("/described/1", "<title>T</title>")

    assert await world.preview_of("/described/1") == {"og:title": "T"}


async def test_oembed_link_of_a_page_adds_missing_properties(world: World) -> None:
    world.site.html(
        "/a",
        "<title>Weak</title><p>Text.<link rel=alternate type=application/json+oembed href=/o?x>",
    )
    answer = {"version": "1.0", "type": "rich", "title": "Strong", "html": "<p>Rich text</p>"}
    world.site.pages["/o"] = SiteResponse(orjson.dumps(answer), headers=JSON)

    preview = await world.preview_of("/a")

    assert preview["og:title"] == "Weak"
    assert preview["og:description"] == "Text."
    assert preview["og:url"] == world.site.url("/a")


# Caching


async def test_preview_is_fetched_once_until_it_expires(world: World) -> None:
    world.site.html("/a", "<title>T</title>")

    await world.preview_of("/a")
    await world.preview_of("/a#fragment")
    world.previews._cache.clear()
    await world.preview_of("/a")
    assert len(world.site.requests) == 1
    world.process.clock.advance(HOUR_MS + 1)
    await world.preview_of("/a")

    assert len(world.site.requests) == 2


def kept_faults() -> int:
    gc.collect()
    return sum(isinstance(kept, HttpFault) for kept in gc.get_objects())


async def test_remembered_failure_keeps_nothing_of_the_page(world: World) -> None:
    before = kept_faults()  # parameters of other tests
    for number in range(10):
        world.site.pages[f"/{number}"] = SiteResponse(b"<p>" * MAX_BYTES)
        with pytest.raises(NotFetched):
            await world.preview_of(f"/{number}")

    # The thread of the HTTP client may still hold its last result.
    assert kept_faults() <= before + 1


async def test_concurrent_requests_share_one_fetch(world: World) -> None:
    world.site.html("/a", "<title>T</title>")
    answers: list[dict[str, Any]] = []

    async def request_preview() -> None:
        answers.append(await world.preview_of("/a"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(request_preview)

    assert answers == [{"og:title": "T"}] * 20
    assert len(world.site.requests) == 1


async def test_failed_url_is_fetched_again_only_later(world: World) -> None:
    for _ in range(3):
        with pytest.raises(NotFetched):
            await world.preview_of("/missing")
    assert len(world.site.requests) == 1
    world.process.clock.advance(FAULT_LIFE_S * 1000 + 1)
    world.site.html("/missing", "<title>here</title>")

    assert await world.preview_of("/missing") == {"og:title": "here"}


async def test_concurrent_fetches_are_limited(world: World) -> None:
    go = trio.Event()

    async def wait(asked: SiteRequest) -> SiteResponse:
        await go.wait()
        return SiteResponse(b"", headers={"content-type": "text/html"})

    count = MAX_CONCURRENT + MAX_WAITING
    for number in range(count):
        world.site.pages[f"/{number}"] = wait
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(world.preview_of, f"/{number}", f"user{number}")
        await trio.testing.wait_all_tasks_blocked()
        slots = world.previews._slots.statistics
        with trio.fail_after(60):
            while slots().tasks_waiting < MAX_WAITING:  # noqa: ASYNC110 look-ups are in threads
                await trio.sleep(0.01)
        with pytest.raises(LimitExceeded):
            await world.preview_of("/more")
        go.set()


async def test_user_who_requests_slow_pages_delays_no_other_user(world: World) -> None:
    go = trio.Event()

    async def wait(_request: SiteRequest) -> SiteResponse:
        await go.wait()
        return SiteResponse(b"<title>Slow</title>")

    world.site.html("/fast", "<title>Fast</title>")
    async with trio.open_nursery() as nursery:
        for number in range(MAX_CONCURRENT_OF_USER + MAX_WAITING_OF_USER):
            world.site.pages[f"/{number}"] = wait
            nursery.start_soon(world.preview_of, f"/{number}", "mallory")
        await trio.testing.wait_all_tasks_blocked()

        preview = await world.preview_of("/fast", "alice")
        with pytest.raises(LimitExceeded):
            await world.preview_of("/fast2", "mallory")
        go.set()

    assert preview["og:title"] == "Fast"
    assert len(world.previews._shares) == 0


async def test_image_is_stored_once_and_deleted_when_unused(
    world: World,
) -> None:
    for path in ("/a", "/b"):
        world.site.html(path, f"<title>T</title><img src={path}.png>")
        world.site.pages[f"{path}.png"] = SiteResponse(picture(20, 10), headers=PNG)

    first = await world.preview_of("/a")
    world.process.clock.advance(UNUSED_LIFE_MS)
    second = await world.preview_of("/b")
    await world.clean_up()

    assert first["og:image"] == second["og:image"]
    assert await world.process.base.database.read(count_media) == 1
    world.process.clock.advance(UNUSED_LIFE_MS + 1)
    await world.clean_up()
    assert await world.process.base.database.read(count_media) == 0
    assert (await world.preview_of("/a"))["og:image"] != first["og:image"]


async def test_image_whose_media_was_deleted_is_stored_again(world: World) -> None:
    world.site.html("/a", "<title>T</title><img src=i>")
    world.site.pages["/i"] = SiteResponse(picture(20, 10), headers=PNG)
    deleted = (await world.preview_of("/a"))["og:image"].removeprefix("mxc://").split("/")
    await world.process.services.media.repository.delete(*deleted)

    world.process.clock.advance(HOUR_MS + 1)

    assert (await world.preview_of("/a"))["og:image"] != "/".join(deleted)
    assert await world.process.base.database.read(count_media) == 1


async def test_page_with_an_undecodable_header_is_parsed(world: World) -> None:
    async def respond(stream: trio.abc.Stream) -> None:
        head = b"Content-Type: text/html; charset=\xff\xfe\r\nConnection: close\r\n\r\n"
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + head + b"<title>T</title>")
        await stream.aclose()

    world.site.pages["/a"] = SiteResponse(raw=respond)

    assert await world.preview_of("/a") == {"og:title": "T"}


async def test_expired_previews_are_deleted(world: World) -> None:
    world.site.html("/a", "<title>T</title>")
    await world.preview_of("/a")
    world.process.clock.advance(HOUR_MS + 1)

    await world.clean_up()

    assert await world.process.base.database.read(count_previews) == 0


async def count_previews(tx: Any) -> int:
    return int(await tx.fetchval("SELECT count(*) FROM url_previews"))
