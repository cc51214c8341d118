"""Forward proxies are used, and do not circumvent the rules on addresses."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.lib.aio import Bridge
from hs.lib.http_client import HttpBlocked, HttpUnreachable
from hs.lib.http_client.addresses import ALLOW_ALL
from hs.lib.http_client.targets import Proxies
from tests.support.outgoing import PRIVATE, fake_resolver, open_http_client
from tests.support.servers.sites import (
    Site,
    SiteResponse,
    make_certificate,
    open_proxy,
    open_site,
    server_tls,
)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        opened.pages["/hello"] = SiteResponse(b"hello")
        yield opened


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_requests_use_the_configured_proxy(
    bridge: Bridge, site: Site, certificate: Path
) -> None:
    resolve = fake_resolver(public=["8.8.8.8"], localhost=["8.8.8.8"])
    trusting_tls = ssl.create_default_context(cafile=certificate)

    async with open_proxy(site) as (proxy, hops):
        async with open_http_client(
            bridge, PRIVATE, resolve=resolve, proxies=Proxies(proxy)
        ) as http:
            response = await http.send("GET", "http://public.test/hello")
    async with open_site(server_tls(certificate)) as secure:
        secure.pages["/hello"] = SiteResponse(b"safe")
        async with open_proxy(secure) as (proxy, more_hops):
            proxies = Proxies(None, proxy)
            async with open_http_client(
                bridge, PRIVATE, resolve=resolve, proxies=proxies, tls=trusting_tls
            ) as http:
                secure_response = await http.send("GET", "https://localhost/hello")

    assert (response.body, secure_response.body) == (b"hello", b"safe")
    assert hops == ["GET http://public.test/hello"]
    assert more_hops == ["CONNECT localhost:443"]


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "[::1]", "[2002:a00:1::]", "bad.test", "both.test", "2130706433"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_blocked_hosts_are_blocked_through_proxy(
    bridge: Bridge, site: Site, host: str, scheme: str
) -> None:
    resolve = fake_resolver(bad=["10.0.0.1"], both=["8.8.8.8 10.0.0.1"])

    async with open_proxy(site) as (proxy, hops):
        proxies = Proxies(proxy, proxy)
        async with open_http_client(bridge, PRIVATE, resolve=resolve, proxies=proxies) as http:
            with pytest.raises(HttpBlocked):
                await http.send("GET", f"{scheme}://{host}/hello")

    assert hops == []


async def test_redirects_through_proxy_are_checked(bridge: Bridge, site: Site) -> None:
    site.pages["/a"] = SiteResponse(status=302, headers={"location": "http://169.254.169.254/"})

    async with open_proxy(site) as (proxy, hops):
        resolve = fake_resolver(public=["8.8.8.8"])
        async with open_http_client(
            bridge, PRIVATE, resolve=resolve, proxies=Proxies(proxy)
        ) as http:
            with pytest.raises(HttpBlocked):
                await http.send("GET", "http://public.test/a", redirects=3)

    assert len(hops) == 1


async def test_unresolvable_name_is_sent_to_proxy_only_without_rules(
    bridge: Bridge, site: Site
) -> None:
    async with open_proxy(site) as (proxy, hops):
        async with open_http_client(bridge, ALLOW_ALL, proxies=Proxies(proxy)) as http:
            response = await http.send("GET", "http://nowhere.invalid/hello")
        async with open_http_client(bridge, PRIVATE, proxies=Proxies(proxy)) as http:
            with pytest.raises(HttpUnreachable):
                await http.send("GET", "http://nowhere.invalid/hello")

    assert response.body == b"hello"
    assert len(hops) == 1


async def test_proxy_credentials_are_sent(bridge: Bridge, site: Site) -> None:
    async with open_proxy(site) as (proxy, _):
        proxies = Proxies(proxy.replace("http://", "http://user:word@"))
        async with open_http_client(bridge, ALLOW_ALL, proxies=proxies) as http:
            await http.send("GET", "http://nowhere.invalid/hello")

    assert site.requests[0].headers["proxy-authorization"].startswith("Basic ")
