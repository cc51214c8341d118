"""URL previews that running servers make of a site on this machine."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.ledger import Person
from tests.support.media import picture
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer
from tests.support.servers.sites import SiteResponse, open_site
from tests.support.web import WebResponse

pytestmark = pytest.mark.process
PREVIEW = "/_matrix/client/v1/media/preview_url"
LEGACY = "/_matrix/media/v3/preview_url"
HTML = """
<html><head><title>ignored</title><meta property="og:title" content="A page">
<meta property="og:image" content="/image.png"></head><body><p>Some text.</p></body></html>
"""


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server that fetches previews from 127.0.0.1 and from no other private address."""
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    folder = Path(tempfile.mkdtemp(prefix="hs-media-"))
    settings: dict[str, Any] = {
        "url_preview_enabled": True,
        "url_preview_ip_range_whitelist": ["127.0.0.1/32"],
        "url_preview_url_blacklist": [{"path": "*forbidden*"}],
        "media_store_path": str(folder),
    }
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with running_cluster(layout, postgres, redis, **settings) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


async def register_person(cluster: Cluster) -> Person:
    rng = random.Random(4)
    person = Person(cluster.ports, rng)
    await person.register(f"u{random.SystemRandom().randrange(10**9)}")
    return person


async def preview(person: Person, port: int, url: str, path: str = PREVIEW) -> WebResponse:
    async with HttpClient(port, person.token or None) as client:
        return await client.get(f"{path}?url={quote(url, safe='')}")


async def test_page_is_fetched_once_for_all_processes(cluster: Cluster) -> None:
    person = await register_person(cluster)

    async with open_site() as site:
        url = site.html("/page", HTML)
        site.pages["/image.png"] = SiteResponse(
            picture(40, 30), headers={"content-type": "image/png"}
        )
        answers = [
            await preview(person, port, url, path)
            for port in person.ports
            for path in (PREVIEW, LEGACY, LEGACY.replace("v3", "r0"))
        ]

    assert {answer.status for answer in answers} == {200}, answers[0].body
    first = answers[0].json
    assert all(answer.json == first for answer in answers)
    assert (first["og:title"], first["og:description"]) == ("A page", "Some text.")
    assert (first["og:image:width"], first["og:image:height"]) == (40, 30)
    assert first["matrix:image:size"] == len(picture(40, 30))
    assert [request.path for request in site.requests] == ["/page", "/image.png"]
    image = first["og:image"].removeprefix("mxc://")
    for port in person.ports:
        async with HttpClient(port, person.token) as client:
            downloaded = await client.get(f"/_matrix/client/v1/media/download/{image}")
        assert downloaded.body == picture(40, 30)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.2:{port}/page", 404),
        ("http://localhost:{port}/forbidden", 403),
        ("http://[::1]:{port}/page", 404),
        ("http://127.1:{port}/page", 400),
        ("file:///etc/passwd", 400),
        ("matrix.org", 400),
        ("http://169.254.169.254/latest/meta-data", 404),
        ("http://127.0.0.1:{port}/missing", 404),
    ],
)
async def test_refused_or_missing_page_is_an_error(cluster: Cluster, url: str, status: int) -> None:
    person = await register_person(cluster)

    async with open_site() as site:
        answer = await preview(person, person.ports[0], url.format(port=site.port))

    assert answer.status == status
    assert answer.json["errcode"] in ("M_FORBIDDEN", "M_INVALID_PARAM", "M_NOT_FOUND")


async def test_preview_without_access_token_is_rejected(cluster: Cluster) -> None:
    stranger = Person(cluster.ports, random.Random(4))

    answer = await preview(stranger, stranger.ports[0], "http://127.0.0.1/")

    assert (answer.status, answer.json["errcode"]) == (401, "M_MISSING_TOKEN")


async def test_preview_without_url_is_rejected(cluster: Cluster) -> None:
    person = await register_person(cluster)

    async with HttpClient(person.ports[0], person.token) as client:
        answer = await client.get(PREVIEW)

    assert (answer.status, answer.json["errcode"]) == (400, "M_MISSING_PARAM")


async def test_endpoint_is_unrecognized_without_url_previews() -> None:
    with running_cluster("T0", None, None) as cluster:
        person = await register_person(cluster)

        answer = await preview(person, person.ports[0], "http://example.org/")

    assert (answer.status, answer.json["errcode"]) == (404, "M_UNRECOGNIZED")
