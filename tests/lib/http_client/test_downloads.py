"""Downloads of large files over https, on this machine."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest

from hs.lib.http_client import HttpBlocked, HttpFault, ResponseTooLarge
from hs.lib.http_client.addresses import ALLOW_ALL, AddressRules
from hs.lib.http_client.directed import DirectedHttpClient
from hs.lib.http_client.downloads import HttpsDownloads
from tests.support.outgoing import PRIVATE
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.sites import Site, SiteResponse, open_site

LARGE = bytes(range(256)) * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "DNS:files.example")


@attrs.frozen(eq=False)
class Files:
    """A site that all names lead to."""

    site: Site
    downloads: HttpsDownloads

    def url(self, path: str) -> str:
        """Return the URL of a file."""
        return f"https://files.example:{self.site.port}{path}"

    async def receive(self, url: str, max_bytes: int = 1 << 20) -> list[bytes]:
        """Return the parts of a file."""
        async with self.downloads.stream(url, timeout_s=20, max_bytes=max_bytes) as response:
            assert response.status == 200
            return [part async for part in response.parts]


@asynccontextmanager
async def open_files(
    certificates: Certificates, rules: AddressRules = ALLOW_ALL
) -> AsyncIterator[Files]:
    async def resolve(host: str) -> Sequence[str]:
        return ["127.0.0.1"]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    tls = ssl.create_default_context(cafile=str(certificates.authority))
    async with open_site(context) as site:
        http = DirectedHttpClient(rules, resolve=resolve)
        try:
            yield Files(site, HttpsDownloads(http, "test/1", tls))
        finally:
            http.close()


async def test_file_is_received_in_parts(certificates: Certificates) -> None:
    async with open_files(certificates) as files:
        files.site.pages["/file"] = SiteResponse(LARGE)

        parts = await files.receive(files.url("/file?a=b"))

        assert files.site.requests[0].headers["user-agent"] == "test/1"
    assert len(parts) > 1
    assert b"".join(parts) == LARGE


async def test_redirects_are_followed(certificates: Certificates) -> None:
    async with open_files(certificates) as files:
        files.site.pages["/file"] = SiteResponse(b"content")
        files.site.pages["/1"] = SiteResponse(status=302, headers={"location": "/2"})
        target = files.url("/file")
        files.site.pages["/2"] = SiteResponse(status=307, headers={"location": target})
        files.site.pages["/loop"] = SiteResponse(status=302, headers={"location": "/loop"})

        assert await files.receive(files.url("/1")) == [b"content"]
        with pytest.raises(HttpFault, match="more than 3 redirects"):
            await files.receive(files.url("/loop"))


async def test_redirect_to_http_is_refused(certificates: Certificates) -> None:
    async with open_files(certificates) as files:
        location = "http://files.example/file"
        files.site.pages["/file"] = SiteResponse(status=302, headers={"location": location})

        with pytest.raises(HttpBlocked, match="not https"):
            await files.receive(files.url("/file"))


async def test_blocked_address_is_not_reached(certificates: Certificates) -> None:
    async with open_files(certificates, PRIVATE) as files:
        with pytest.raises(HttpBlocked):
            await files.receive(files.url("/file"))

        assert files.site.requests == []


async def test_too_large_file_is_given_up(certificates: Certificates) -> None:
    async with open_files(certificates) as files:
        files.site.pages["/file"] = SiteResponse(LARGE)

        with pytest.raises(ResponseTooLarge):
            await files.receive(files.url("/file"), max_bytes=100_000)
