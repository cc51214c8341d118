"""Previews of a site on this machine: what is fetched, kept, shared, refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import trio
import trio.testing

from hs.core.errors import Forbidden, LimitExceeded
from hs.lib.aio import Bridge
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.sandbox.pool import Sandbox
from hs.nursery.wiring.http_clients import address_rules
from hs.services.previews.oembed import read_providers
from hs.services.previews.preview_builder import SLOW_HOST_S, Links
from hs.services.previews.preview_cache import AT_ONCE, FAULT_LIFE_S, MOST_WAITING, Previews
from hs.services.previews.preview_fetcher import Fetcher, NotFetched
from hs.services.previews.preview_images import KEPT_MS, PreviewImages
from hs.settings.errors import Origin
from hs.settings.kinds import At
from hs.settings.sections.outgoing import PRIVATE_NETWORKS
from hs.settings.sections.previews import URL_RULES
from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media, picture
from tests.support.sites import Asked, Page, Site, open_site

MAX_BYTES = 1 << 20
# For a page to be read, also on a slow machine.
LONG_S = 60.0
HOUR_MS = 3_600_000
PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


@attrs.define
class World:
    """A site, and a service that may fetch from it."""

    site: Site
    media: MediaWorld
    previews: Previews
    sandbox: Sandbox

    async def of(self, path: str) -> dict[str, Any]:
        """Give the preview of a path of the site."""
        answer: dict[str, Any] = orjson.loads(await self.previews.preview(self.site.url(path)))
        return answer


@asynccontextmanager
async def open_world(
    database: Database, bridge: Bridge, folder: Path, parse_s: float = LONG_S
) -> AsyncIterator[World]:
    rules = address_rules(PRIVATE_NETWORKS, ("127.0.0.1/32",))
    http = BridgedHttpClient(bridge, rules, user_agent="test")
    async with open_site() as site, open_media(database, folder) as media:
        sandbox = Sandbox(children=1)
        world = World(site, media, made(media, http, sandbox, site, parse_s), sandbox)
        try:
            yield world
        finally:
            with trio.CancelScope(shield=True):
                await http.aclose()
                await sandbox.aclose()


def made(
    media: MediaWorld, http: BridgedHttpClient, sandbox: Sandbox, site: Site, parse_s: float
) -> Previews:
    refused = [{"path": "/forbidden/*"}, {"port": "^0*81$"}, {"username": "*"}]
    fetcher = Fetcher(http, rules_of(*refused), ["de", "en;q=0.5"])
    images = PreviewImages(
        fetcher, media.repository, media.thumbnails, media.database, media.clock, MAX_BYTES
    )
    endpoints = [{"schemes": [site.url("/described/*")], "url": site.url("/oembed")}]
    providers = read_providers(orjson.dumps([{"endpoints": endpoints}]))
    links = Links(fetcher, sandbox, images, providers, MAX_BYTES, parse_s)
    return Previews(media.database, media.clock, fetcher, links)


def rules_of(*rules: dict[str, str]) -> Any:
    return URL_RULES.read(list(rules), At(("rules",), Path(), [], Origin()))


@pytest.fixture
async def world(database: Database, bridge: Bridge, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(database, bridge, tmp_path) as opened:
        yield opened


async def test_a_page_is_shown_with_its_image(world: World) -> None:
    world.site.html("/a", '<meta property=og:title content=T><meta property=og:image content="i">')
    world.site.pages["/i"] = Page(picture(20, 10), headers=PNG)

    shown = await world.of("/a")

    assert shown["og:title"] == "T"
    assert (shown["og:image:type"], shown["og:image:width"], shown["og:image:height"]) == (
        "image/png",
        20,
        10,
    )
    assert shown["matrix:image:size"] == len(picture(20, 10))
    assert world.site.asked[0].headers["accept-language"] == "de, en;q=0.5"


async def test_a_page_that_takes_too_long_is_not_kept_as_an_empty_one(
    database: Database, bridge: Bridge, tmp_path: Path
) -> None:
    async with open_world(database, bridge, tmp_path, parse_s=0.0) as world:
        world.site.html("/a", "<title>T</title>")

        shown = [await world.of("/a") for _ in range(2)]
        world.media.clock.advance(int(SLOW_HOST_S * 1000) + 1)
        shown.append(await world.of("/a"))

        assert shown == [{}, {}, {}]
        assert len(world.site.asked) == 2


async def test_an_image_that_is_none_leaves_nothing_behind(world: World) -> None:
    world.site.html("/a", "<title>T</title><img src=bad><img src=svg><img src=gone>")
    world.site.pages["/bad"] = Page(b"this is no picture", headers=PNG)
    world.site.pages["/svg"] = Page(b"<svg/>", headers={"content-type": "image/svg+xml"})

    assert await world.of("/a") == {"og:title": "T"}
    assert await world.media.database.read(count_media) == 0


async def count_media(tx: Any) -> int:
    return int(await tx.fetchval("SELECT count(*) FROM media"))


async def test_the_next_image_stands_in_for_one_that_is_gone(world: World) -> None:
    world.site.html("/a", "<meta property=og:image content=/gone><img src=i>")
    world.site.pages["/i"] = Page(picture(20, 10), headers=PNG)

    assert "og:image" in await world.of("/a")


async def test_a_link_to_an_image_shows_it(world: World) -> None:
    world.site.pages["/a/cat%20.png"] = Page(picture(20, 10), headers=PNG)

    shown = await world.of("/a/cat .png")

    assert (shown["og:title"], shown["og:image:width"]) == ("cat .png", 20)


@pytest.mark.parametrize("kind", ["application/pdf", "video/mp4", "application/json", "text/plain"])
async def test_other_content_has_an_empty_preview(world: World, kind: str) -> None:
    world.site.pages["/a"] = Page(b"<title>no page</title>", headers={"content-type": kind})

    assert await world.of("/a") == {}


async def test_redirects_are_followed(world: World) -> None:
    world.site.pages["/a"] = Page(status=302, headers={"location": "/there/b"})
    world.site.html("/there/b", "<title>T</title><img src=i>")
    world.site.pages["/there/i"] = Page(picture(20, 10), headers=PNG)

    assert "og:image" in await world.of("/a")


@pytest.mark.parametrize("location", ["/forbidden/x", "http://a:b@127.0.0.1/", "http://x:0081/"])
async def test_redirects_to_what_is_refused_are_not(world: World, location: str) -> None:
    world.site.pages["/a"] = Page(status=302, headers={"location": location})

    with pytest.raises((Forbidden, NotFetched)):
        await world.of("/a")

    assert [asked.path for asked in world.site.asked] == ["/a"]


@pytest.mark.parametrize(
    ("part", "pattern", "is_refused"),
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
async def test_rules_refuse_links(world: World, part: str, pattern: str, is_refused: bool) -> None:
    fetcher = Fetcher(world.previews._fetcher._http, rules_of({part: pattern}), [])

    try:
        fetcher.usual_form(world.site.url("/a"))
    except Forbidden:
        assert is_refused
    else:
        assert not is_refused


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
async def test_no_other_spelling_of_a_host_gets_round_a_rule(
    world: World, part: str, url: str
) -> None:
    fetcher = Fetcher(world.previews._fetcher._http, rules_of({part: "^internal[.]example$"}), [])

    with pytest.raises(Forbidden):
        fetcher.usual_form(url)
    fetcher.usual_form("http://internal.example.org/")


async def test_all_parts_of_a_rule_must_match(world: World) -> None:
    fetcher = Fetcher(world.previews._fetcher._http, rules_of({"scheme": "http", "path": "/a"}), [])

    fetcher.usual_form("http://x.test/b")
    fetcher.usual_form("https://x.test/a")
    with pytest.raises(Forbidden):
        fetcher.usual_form("http://x.test/a")


async def test_pages_too_large_and_failures_are_not_fetched(world: World) -> None:
    world.site.pages["/large"] = Page(bytes(MAX_BYTES + 1), headers={"content-type": "text/html"})
    world.site.pages["/fails"] = Page(b"<title>oh</title>", 500, {"content-type": "text/html"})

    for path in ("/large", "/fails", "/missing"):
        with pytest.raises(NotFetched):
            await world.of(path)


async def test_a_page_made_to_take_long_has_an_empty_preview(
    database: Database, bridge: Bridge, tmp_path: Path
) -> None:
    async with open_world(database, bridge, tmp_path, parse_s=2.0) as world:
        world.site.html("/a", "<div>" * 200_000)
        world.site.html("/b", "<title>T</title>")

        assert await world.of("/a") == {}
        assert await world.of("/b") == {}, "its host has to wait"


# oEmbed


async def test_a_provider_describes_its_pages(world: World) -> None:
    answer = {
        "version": "1.0",
        "type": "video",
        "title": "V",
        "thumbnail_url": world.site.url("/i"),
    }
    world.site.pages["/oembed"] = Page(orjson.dumps(answer), headers=JSON)
    world.site.pages["/i"] = Page(picture(20, 10), headers=PNG)

    shown = await world.of("/described/1")

    assert (shown["og:title"], shown["og:image:width"]) == ("V", 20)
    assert [asked.path.partition("?")[0] for asked in world.site.asked] == ["/oembed", "/i"]


async def test_a_provider_that_fails_leaves_the_page_to_speak(world: World) -> None:
    world.site.html("/described/1", "<title>T</title>")

    assert await world.of("/described/1") == {"og:title": "T"}


async def test_a_page_names_where_it_is_described(world: World) -> None:
    world.site.html(
        "/a",
        "<title>Weak</title><p>Text.<link rel=alternate type=application/json+oembed href=/o?x>",
    )
    answer = {"version": "1.0", "type": "rich", "title": "Strong", "html": "<p>Rich text</p>"}
    world.site.pages["/o"] = Page(orjson.dumps(answer), headers=JSON)

    shown = await world.of("/a")

    assert shown["og:title"] == "Weak"
    assert shown["og:description"] == "Text."
    assert shown["og:url"] == world.site.url("/a")


# Kept, and shared


async def test_a_preview_is_fetched_once_until_it_expires(world: World) -> None:
    world.site.html("/a", "<title>T</title>")

    await world.of("/a")
    await world.of("/a#fragment")
    world.previews._memory.clear()
    await world.of("/a")
    assert len(world.site.asked) == 1
    world.media.clock.advance(HOUR_MS + 1)
    await world.of("/a")

    assert len(world.site.asked) == 2


async def test_those_who_ask_at_once_wait_for_one(world: World) -> None:
    world.site.html("/a", "<title>T</title>")
    answers: list[dict[str, Any]] = []

    async def ask() -> None:
        answers.append(await world.of("/a"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)

    assert answers == [{"og:title": "T"}] * 20
    assert len(world.site.asked) == 1


async def test_a_link_that_fails_is_not_tried_again_at_once(world: World) -> None:
    for _ in range(3):
        with pytest.raises(NotFetched):
            await world.of("/missing")
    assert len(world.site.asked) == 1
    world.media.clock.advance(FAULT_LIFE_S * 1000 + 1)
    world.site.html("/missing", "<title>here</title>")

    assert await world.of("/missing") == {"og:title": "here"}


async def test_only_so_many_links_are_fetched_at_once(world: World) -> None:
    go = trio.Event()

    async def wait(asked: Asked) -> Page:
        await go.wait()
        return Page(b"", headers={"content-type": "text/html"})

    count = AT_ONCE + MOST_WAITING
    for number in range(count):
        world.site.pages[f"/{number}"] = wait
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(world.of, f"/{number}")
        await trio.testing.wait_all_tasks_blocked()
        slots = world.previews._slots.statistics
        with trio.fail_after(60):
            while slots().tasks_waiting < MOST_WAITING:  # noqa: ASYNC110 look-ups are in threads
                await trio.sleep(0.01)
        with pytest.raises(LimitExceeded):
            await world.of("/more")
        go.set()


async def test_an_image_is_stored_once_and_deleted_when_no_preview_shows_it(
    world: World,
) -> None:
    images = world.previews._links._images
    for path in ("/a", "/b"):
        world.site.html(path, f"<title>T</title><img src={path}.png>")
        world.site.pages[f"{path}.png"] = Page(picture(20, 10), headers=PNG)

    first = await world.of("/a")
    world.media.clock.advance(KEPT_MS)
    second = await world.of("/b")
    await images.forget_unused()

    assert first["og:image"] == second["og:image"]
    assert await world.media.database.read(count_media) == 1
    world.media.clock.advance(KEPT_MS + 1)
    await images.forget_unused()
    assert await world.media.database.read(count_media) == 0
    assert (await world.of("/a"))["og:image"] != first["og:image"]


async def test_an_image_whose_media_were_deleted_is_stored_again(world: World) -> None:
    world.site.html("/a", "<title>T</title><img src=i>")
    world.site.pages["/i"] = Page(picture(20, 10), headers=PNG)
    gone = (await world.of("/a"))["og:image"].removeprefix("mxc://").split("/")
    await world.media.repository.delete(*gone)

    world.media.clock.advance(HOUR_MS + 1)

    assert (await world.of("/a"))["og:image"] != "/".join(gone)
    assert await world.media.database.read(count_media) == 1


async def test_a_page_whose_header_is_no_text_is_read(world: World) -> None:
    async def odd(stream: trio.abc.Stream) -> None:
        head = b"Content-Type: text/html; charset=\xff\xfe\r\nConnection: close\r\n\r\n"
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + head + b"<title>T</title>")
        await stream.aclose()

    world.site.pages["/a"] = Page(raw=odd)

    assert await world.of("/a") == {"og:title": "T"}


async def test_expired_previews_are_forgotten(world: World) -> None:
    world.site.html("/a", "<title>T</title>")
    await world.of("/a")
    world.media.clock.advance(HOUR_MS + 1)

    await world.previews.forget_expired()

    assert await world.media.database.read(count_previews) == 0


async def count_previews(tx: Any) -> int:
    return int(await tx.fetchval("SELECT count(*) FROM url_previews"))
