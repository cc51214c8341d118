"""A running server survives thousands of damaged pictures, archives and pages.

Every response is one that the specification allows, uploads are returned unchanged, and neither the
server nor its sandboxes exceed their memory limits.
"""

import gzip
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import attrs
import pytest
import trio

from hs.lib.sandbox.pool import MEMORY_BYTES
from tests.support.inputs.damage import corrupted_page, damaged, good_archives, good_pictures
from tests.support.ledger import Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.sites import Site, SiteResponse, open_site
from tests.support.web import WebResponse

pytestmark = pytest.mark.process
FEW, MANY = 120, 10_000
BATCH = 120
MAX_CONCURRENT = 4
SERVER_BYTES = 256 << 20
MEDIA = "/_matrix/client/v1/media"
ERRCODES = {200: None, 400: "M_UNKNOWN", 404: "M_NOT_FOUND", 413: "M_TOO_LARGE"}
SIZES = ("width=32&height=32&method=crop", "width=64&height=64&animated=true", "width=9&height=900")

log = logging.getLogger(__name__)


@attrs.define
class Attack:
    """A server, a site from which it fetches previews, and the outcomes so far."""

    cluster: Cluster
    rng: random.Random
    site: Site = attrs.Factory(Site)
    token: str = ""
    pages: int = 0
    outcomes: Counter[tuple[str, int]] = attrs.Factory(Counter)
    peaks: dict[str, int] = attrs.Factory(dict)

    @property
    def port(self) -> int:
        return self.cluster.processes["main"].port

    @asynccontextmanager
    async def client(self) -> AsyncIterator[HttpClient]:
        async with HttpClient(self.port, self.token) as client:
            yield client

    async def use_new_user(self) -> None:
        """Register a new user, because previews are rate-limited per user."""
        person = Person([self.port], self.rng)
        await person.register(f"u{self.rng.randrange(10**12)}")
        self.token = person.token

    async def upload(self, kind: str, content: bytes) -> None:
        """Upload a file as a picture, request a thumbnail, and download the file."""
        async with self.client() as client:
            headers = {"content-type": "image/png"}
            target = "/_matrix/media/v3/upload?filename=a.png"
            stored = await client.request("POST", target, body=content, headers=headers)
            assert stored.status == 200, stored
            media_path = stored.json["content_uri"].removeprefix("mxc://")
            size = self.rng.choice(SIZES)
            self.count_response(kind, await client.get(f"{MEDIA}/thumbnail/{media_path}?{size}"))
            downloaded = await client.get(f"{MEDIA}/download/{media_path}")
        assert (downloaded.status, downloaded.body) == (200, content)

    async def preview(self, page: bytes) -> None:
        """Request a preview of a page; some pages are compressed, and most of these are damaged."""
        self.pages += 1
        path, headers = f"/{self.pages}", {"content-type": "text/html"}
        if self.rng.random() < 0.4:
            headers["content-encoding"] = "gzip"
            page = gzip.compress(page)
            page = damaged(self.rng, [page]) if self.rng.random() < 0.7 else page
        self.site.pages[path] = SiteResponse(page, headers=headers)
        async with self.client() as client:
            url = quote(self.site.url(path), safe="")
            self.count_response("page", await client.get(f"{MEDIA}/preview_url?url={url}"))

    def count_response(self, kind: str, response: WebResponse) -> None:
        """Count a response, which must be one that the specification allows."""
        assert response.status in ERRCODES, (kind, response)
        assert response.status == 200 or response.errcode == ERRCODES[response.status], (
            kind,
            response,
        )
        self.outcomes[kind, response.status] += 1

    def measure_memory(self) -> None:
        """Record the peak memory of the server, and the highest peak of its sandboxes."""
        process = self.cluster.processes["main"].process
        assert process is not None
        assert process.poll() is None
        self.peaks["server"] = peak_of(process.pid)
        peaks = [peak_of(child) for child in children_of(process.pid)]
        self.peaks["sandbox"] = max([*peaks, self.peaks.get("sandbox", 0)])


def children_of(pid: int) -> list[int]:
    """Return the child processes of all threads of a process."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def peak_of(pid: int) -> int:
    """Return the peak memory of a process in bytes; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server that fetches previews from 127.0.0.1."""
    folder = Path(tempfile.mkdtemp(prefix="hs-media-"))
    settings = {
        "url_preview_enabled": True,
        "url_preview_ip_range_whitelist": ["127.0.0.1/32"],
        "media_store_path": str(folder),
    }
    with running_cluster("T0", None, None, **settings) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
async def test_damaged_content_gets_errors_within_memory_limits(
    cluster: Cluster, count: int
) -> None:
    seed = random.SystemRandom().randrange(10**9)
    attack = Attack(cluster, random.Random(seed))
    log.warning("seed %d", seed)

    for start in range(0, count, BATCH):
        await attack.use_new_user()
        await send_content(attack, min(BATCH, count - start))
        attack.measure_memory()

    log.warning("%s, at most %s bytes", dict(attack.outcomes), attack.peaks)
    assert sum(attack.outcomes.values()) == count
    assert cluster.processes["main"].errors() == ""
    assert attack.peaks["server"] < SERVER_BYTES
    assert 0 < attack.peaks["sandbox"] < MEMORY_BYTES
    # Otherwise everything was rejected early, and little was tested.
    assert {kind for kind, status in attack.outcomes if status == 200} == {"picture", "page"}


async def send_content(attack: Attack, count: int) -> None:
    """Send `count` files and pages, a third of each kind, several at the same time."""
    rng = attack.rng
    pictures, archives = good_pictures(rng), good_archives(rng)
    async with open_site() as site:
        attack.site = site
        limiter = trio.CapacityLimiter(MAX_CONCURRENT)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await limiter.acquire_on_behalf_of(number)
                nursery.start_soon(send_one, attack, limiter, number, (pictures, archives))


async def send_one(
    attack: Attack,
    limiter: trio.CapacityLimiter,
    number: int,
    good: tuple[list[bytes], list[bytes]],
) -> None:
    pictures, archives = good
    try:
        match number % 3:
            case 0:
                await attack.upload("picture", damaged(attack.rng, pictures))
            case 1:
                await attack.upload("archive", damaged(attack.rng, archives))
            case _:
                await attack.preview(corrupted_page(attack.rng))
    finally:
        limiter.release_on_behalf_of(number)
