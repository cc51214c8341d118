"""Forward proxies are used, and are no way around the rules on addresses."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.lib.aio import Bridge
from hs.lib.http_client import Blocked, Unreachable
from hs.lib.http_client.addresses import NO_RULES
from hs.lib.http_client.targets import Proxies
from tests.support.outgoing import PRIVATE, client, names
from tests.support.sites import Page, Site, make_certificate, open_proxy, open_site, server_tls


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        opened.pages["/hello"] = Page(b"hello")
        yield opened


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_requests_go_through_the_proxy(bridge: Bridge, site: Site, certificate: Path) -> None:
    resolve = names(public=["8.8.8.8"], localhost=["8.8.8.8"])
    trusting = ssl.create_default_context(cafile=certificate)

    async with open_proxy(site) as (proxy, hops):
        async with client(bridge, PRIVATE, resolve=resolve, proxies=Proxies(proxy)) as http:
            answer = await http.send("GET", "http://public.test/hello")
    async with open_site(server_tls(certificate)) as secure:
        secure.pages["/hello"] = Page(b"safe")
        async with open_proxy(secure) as (proxy, more_hops):
            proxies = Proxies(None, proxy)
            async with client(
                bridge, PRIVATE, resolve=resolve, proxies=proxies, tls=trusting
            ) as http:
                safe = await http.send("GET", "https://localhost/hello")

    assert (answer.body, safe.body) == (b"hello", b"safe")
    assert hops == ["GET http://public.test/hello"]
    assert more_hops == ["CONNECT localhost:443"]


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "[::1]", "[2002:a00:1::]", "bad.test", "both.test", "2130706433"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_is_no_way_around(bridge: Bridge, site: Site, host: str, scheme: str) -> None:
    resolve = names(bad=["10.0.0.1"], both=["8.8.8.8 10.0.0.1"])

    async with open_proxy(site) as (proxy, hops):
        proxies = Proxies(proxy, proxy)
        async with client(bridge, PRIVATE, resolve=resolve, proxies=proxies) as http:
            with pytest.raises(Blocked):
                await http.send("GET", f"{scheme}://{host}/hello")

    assert hops == []


async def test_redirects_through_a_proxy_are_checked_as_well(bridge: Bridge, site: Site) -> None:
    site.pages["/a"] = Page(status=302, headers={"location": "http://169.254.169.254/"})

    async with open_proxy(site) as (proxy, hops):
        resolve = names(public=["8.8.8.8"])
        async with client(bridge, PRIVATE, resolve=resolve, proxies=Proxies(proxy)) as http:
            with pytest.raises(Blocked):
                await http.send("GET", "http://public.test/a", redirects=3)

    assert len(hops) == 1


async def test_a_name_only_the_proxy_knows_is_asked_for_where_nothing_is_blocked(
    bridge: Bridge, site: Site
) -> None:
    async with open_proxy(site) as (proxy, hops):
        async with client(bridge, NO_RULES, proxies=Proxies(proxy)) as http:
            answer = await http.send("GET", "http://nowhere.invalid/hello")
        async with client(bridge, PRIVATE, proxies=Proxies(proxy)) as http:
            with pytest.raises(Unreachable):
                await http.send("GET", "http://nowhere.invalid/hello")

    assert answer.body == b"hello"
    assert len(hops) == 1


async def test_a_proxy_with_a_password_is_told_it(bridge: Bridge, site: Site) -> None:
    async with open_proxy(site) as (proxy, _):
        proxies = Proxies(proxy.replace("http://", "http://user:word@"))
        async with client(bridge, NO_RULES, proxies=proxies) as http:
            await http.send("GET", "http://nowhere.invalid/hello")

    assert site.asked[0].headers["proxy-authorization"].startswith("Basic ")
