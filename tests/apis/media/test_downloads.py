"""Downloads: content, ranges, revalidation, and security headers."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.apis.media.serving import RangeConditions, ServedFile, disposition, serve
from hs.lib.sandbox.pool import Sandbox
from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media, parts_of
from tests.support.web import WebResponse

UPLOAD = "/_matrix/media/v3/upload"
AUTHENTICATED = "/_matrix/client/v1/media"
DEPRECATED = "/_matrix/media/v3"
TEXT = b"0123456789"


async def upload(
    world: MediaWorld, content: bytes, content_type: str = "text/plain", name: str = ""
) -> str:
    """Upload content and return its MXC URI without the scheme."""
    response = await world.client.post(
        UPLOAD,
        body=parts_of(content),
        token="alice",
        query={"filename": name} if name else None,
        headers={"content-type": content_type, "content-length": str(len(content))},
    )
    assert response.status == 200, response.body
    return str(response.json["content_uri"]).removeprefix("mxc://")


async def download(world: MediaWorld, address: str, **headers: str) -> WebResponse:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.client.get(
        f"{AUTHENTICATED}/download/{address}", token="alice", headers=sent
    )


async def test_download_returns_the_uploaded_content(world: MediaWorld) -> None:
    content = bytes(range(256)) * 5000

    address = await upload(world, content, "image/png", "picture.png")
    response = await download(world, address)

    assert (response.status, response.body) == (200, content)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == str(len(content))
    assert response.headers["content-disposition"] == 'inline; filename="picture.png"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["content-security-policy"].startswith("sandbox;")
    assert response.headers["access-control-allow-origin"] == "*"
    assert "noindex" in response.headers["x-robots-tag"]


async def test_empty_file_can_be_downloaded(world: MediaWorld) -> None:
    response = await download(world, await upload(world, b""))

    assert (response.status, response.body) == (200, b"")


async def test_download_requires_a_token(world: MediaWorld) -> None:
    address = await upload(world, TEXT)

    response = await world.client.get(f"{AUTHENTICATED}/download/{address}")

    assert (response.status, response.errcode) == (401, "M_MISSING_TOKEN")


async def test_deprecated_endpoints_do_not_serve_new_media(world: MediaWorld) -> None:
    address = await upload(world, TEXT)

    responses = [
        await world.client.get(f"{DEPRECATED}/download/{address}", token="alice"),
        await world.client.get(f"/_matrix/media/r0/download/{address}/name.txt"),
        await world.client.get(f"{DEPRECATED}/thumbnail/{address}?width=10&height=10"),
    ]

    assert [(response.status, response.errcode) for response in responses] == [
        (404, "M_NOT_FOUND")
    ] * 3


async def test_deprecated_endpoint_serves_media_from_before_the_freeze(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(database, tmp_path, enable_authenticated_media=False) as before:
        address = await upload(before, TEXT)
    async with open_media(database, tmp_path) as after:
        deprecated = await after.client.get(f"{DEPRECATED}/download/{address}")
        authenticated = await download(after, address)

    assert (deprecated.status, deprecated.body) == (200, TEXT)
    assert (authenticated.status, authenticated.body) == (200, TEXT)
    assert "public" in deprecated.headers["cache-control"]
    assert "private" in authenticated.headers["cache-control"]


async def test_file_name_in_the_path_overrides_the_uploaded_one(world: MediaWorld) -> None:
    address = await upload(world, TEXT, "text/html", "page.html")

    uploaded_name = await download(world, address)
    overridden_name = await download(world, f"{address}/b%C3%BCro%0D%0A.html")

    assert uploaded_name.headers["content-disposition"] == 'attachment; filename="page.html"'
    assert (
        overridden_name.headers["content-disposition"]
        == "attachment; filename*=utf-8''b%C3%BCro%0D%0A.html"
    )


@pytest.mark.parametrize(
    ("range_header", "part"),
    [
        ("bytes=0-3", (b"0123", "bytes 0-3/10")),
        ("bytes=4-", (b"456789", "bytes 4-9/10")),
        ("bytes=-2", (b"89", "bytes 8-9/10")),
        ("bytes=8-100", (b"89", "bytes 8-9/10")),
        ("bytes=-100", (TEXT, "bytes 0-9/10")),
    ],
)
async def test_range_is_served(
    world: MediaWorld, range_header: str, part: tuple[bytes, str]
) -> None:
    address = await upload(world, TEXT)

    response = await download(world, address, range=range_header)

    assert response.status == 206
    assert (response.body, response.headers["content-range"]) == part
    assert response.headers["content-length"] == str(len(response.body))


@pytest.mark.parametrize("range_header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
async def test_range_beyond_the_end_is_not_satisfiable(
    world: MediaWorld, range_header: str
) -> None:
    address = await upload(world, TEXT)

    response = await download(world, address, range=range_header)

    assert (response.status, response.headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize("range_header", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4"])
async def test_unsupported_range_returns_the_whole_file(
    world: MediaWorld, range_header: str
) -> None:
    address = await upload(world, TEXT)

    response = await download(world, address, range=range_header)

    assert (response.status, response.body) == (200, TEXT)


async def test_conditional_requests(world: MediaWorld) -> None:
    address = await upload(world, TEXT)
    tag = (await download(world, address)).headers["etag"]

    unmodified = await download(world, address, if_none_match=f'"other", W/{tag}')
    part = await download(world, address, range="bytes=0-0", if_range=tag)
    whole = await download(world, address, range="bytes=0-0", if_range='"other"')

    assert (unmodified.status, unmodified.body, unmodified.headers["etag"]) == (304, b"", tag)
    assert (part.status, whole.status) == (206, 200)


async def test_head_returns_only_the_headers(world: MediaWorld) -> None:
    address = await upload(world, TEXT)

    response = await world.client.request(
        "HEAD", f"{AUTHENTICATED}/download/{address}", token="alice"
    )

    assert (response.status, response.body, response.headers["content-length"]) == (200, b"", "10")


@pytest.mark.parametrize(
    "address",
    [
        "test/unknown",
        "test/..%2F..%2Fhomeserver.yaml",
        "test/%2E%2E",
        "..%2F..%2Fetc/passwd",
        "elsewhere.example/someMediaId",
    ],
)
async def test_unknown_media_is_not_found(world: MediaWorld, address: str) -> None:
    response = await download(world, address)

    assert (response.status, response.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "path", [f"{AUTHENTICATED}/config", f"{DEPRECATED}/config", "/_matrix/media/r0/config"]
)
async def test_config_has_the_upload_limit(world: MediaWorld, path: str) -> None:
    response = await world.client.get(path, token="alice")

    assert response.json == {"m.upload.size": 50 * 1024**2}


@pytest.mark.parametrize(
    ("content_type", "name", "expected"),
    [
        ("image/png", None, "inline"),
        ("Image/PNG; charset=x", "a", 'inline; filename="a"'),
        ("image/svg+xml", "a b.svg", 'attachment; filename="a b.svg"'),
        ("text/html", 'a"b', "attachment; filename*=utf-8''a%22b"),
        ("application/octet-stream", "☃.bin", "attachment; filename*=utf-8''%E2%98%83.bin"),
    ],
)
def test_only_safe_types_are_inline(content_type: str, name: str | None, expected: str) -> None:
    assert disposition(content_type, name) == expected


sizes = st.integers(min_value=0, max_value=50)
range_ends = st.one_of(st.just(""), sizes.map(str))


@settings(max_examples=300)
@given(sizes, range_ends, range_ends)
def test_any_range_is_a_slice_of_the_content(size: int, first: str, last: str) -> None:
    content = bytes(range(size))

    response = serve(
        ServedFile("text/plain", size, None, "tag", lambda start, length: parts_of(b"")),
        RangeConditions(range=f"bytes={first}-{last}"),
    )

    if response.status == 206:
        start, _, rest = response.headers["content-range"].removeprefix("bytes ").partition("-")
        end = int(rest.partition("/")[0])
        whole = content[int(first) :] if first else content[-int(last) :]
        expected = whole[: int(last) - int(first) + 1] if first and last else whole
        assert content[int(start) : end + 1] == expected
        assert len(expected) == int(response.headers["content-length"]) > 0
    elif response.status == 416:
        assert (first and int(first) >= size) or (not first and 0 in (int(last), size))
    else:
        assert (first == last == "") or (first and last and int(last) < int(first))


def test_sandbox_is_not_started_for_downloads() -> None:
    assert not Sandbox()._idle
