"""Downloading: the bytes that were uploaded, any part of them, and safe headers."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.apis.media.serving import Conditions, ServedFile, disposition, serve
from hs.lib.sandbox.pool import Sandbox
from hs.storage.database import Database
from tests.support.media import MediaWorld, open_media, parts_of
from tests.support.web import Answer

UPLOAD = "/_matrix/media/v3/upload"
NEW = "/_matrix/client/v1/media"
OLD = "/_matrix/media/v3"
TEXT = b"0123456789"


async def upload(
    world: MediaWorld, content: bytes, kind: str = "text/plain", name: str = ""
) -> str:
    """Upload as a client does; give the address without its scheme."""
    answer = await world.client.post(
        UPLOAD,
        body=parts_of(content),
        token="alice",
        query={"filename": name} if name else None,
        headers={"content-type": kind, "content-length": str(len(content))},
    )
    assert answer.status == 200, answer.body
    return str(answer.json["content_uri"]).removeprefix("mxc://")


async def download(world: MediaWorld, address: str, **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.client.get(f"{NEW}/download/{address}", token="alice", headers=sent)


async def test_what_was_uploaded_comes_back(world: MediaWorld) -> None:
    content = bytes(range(256)) * 5000

    address = await upload(world, content, "image/png", "picture.png")
    answer = await download(world, address)

    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["content-disposition"] == 'inline; filename="picture.png"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "noindex" in answer.headers["x-robots-tag"]


async def test_an_empty_file_comes_back(world: MediaWorld) -> None:
    answer = await download(world, await upload(world, b""))

    assert (answer.status, answer.body) == (200, b"")


async def test_a_download_needs_a_token(world: MediaWorld) -> None:
    address = await upload(world, TEXT)

    answer = await world.client.get(f"{NEW}/download/{address}")

    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


async def test_new_media_are_not_shown_without_a_token(world: MediaWorld) -> None:
    address = await upload(world, TEXT)

    answers = [
        await world.client.get(f"{OLD}/download/{address}", token="alice"),
        await world.client.get(f"/_matrix/media/r0/download/{address}/name.txt"),
        await world.client.get(f"{OLD}/thumbnail/{address}?width=10&height=10"),
    ]

    assert [(one.status, one.errcode) for one in answers] == [(404, "M_NOT_FOUND")] * 3


async def test_media_from_before_the_freeze_are_shown_as_they_were(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(database, tmp_path, enable_authenticated_media=False) as before:
        address = await upload(before, TEXT)
    async with open_media(database, tmp_path) as after:
        old = await after.client.get(f"{OLD}/download/{address}")
        new = await download(after, address)

    assert (old.status, old.body) == (200, TEXT)
    assert (new.status, new.body) == (200, TEXT)
    assert "public" in old.headers["cache-control"]
    assert "private" in new.headers["cache-control"]


async def test_a_name_in_the_path_replaces_the_uploaded_one(world: MediaWorld) -> None:
    address = await upload(world, TEXT, "text/html", "page.html")

    own = await download(world, address)
    other = await download(world, f"{address}/b%C3%BCro%0D%0A.html")

    assert own.headers["content-disposition"] == 'attachment; filename="page.html"'
    assert (
        other.headers["content-disposition"] == "attachment; filename*=utf-8''b%C3%BCro%0D%0A.html"
    )


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-3", (b"0123", "bytes 0-3/10")),
        ("bytes=4-", (b"456789", "bytes 4-9/10")),
        ("bytes=-2", (b"89", "bytes 8-9/10")),
        ("bytes=8-100", (b"89", "bytes 8-9/10")),
        ("bytes=-100", (TEXT, "bytes 0-9/10")),
    ],
)
async def test_a_part_is_given(world: MediaWorld, asked: str, part: tuple[bytes, str]) -> None:
    address = await upload(world, TEXT)

    answer = await download(world, address, range=asked)

    assert answer.status == 206
    assert (answer.body, answer.headers["content-range"]) == part
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
async def test_a_part_that_is_not_there_is_refused(world: MediaWorld, asked: str) -> None:
    address = await upload(world, TEXT)

    answer = await download(world, address, range=asked)

    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4"])
async def test_what_is_no_single_range_gives_all(world: MediaWorld, asked: str) -> None:
    address = await upload(world, TEXT)

    answer = await download(world, address, range=asked)

    assert (answer.status, answer.body) == (200, TEXT)


async def test_a_client_that_has_it_is_told_so(world: MediaWorld) -> None:
    address = await upload(world, TEXT)
    tag = (await download(world, address)).headers["etag"]

    known = await download(world, address, if_none_match=f'"other", W/{tag}')
    part = await download(world, address, range="bytes=0-0", if_range=tag)
    whole = await download(world, address, range="bytes=0-0", if_range='"other"')

    assert (known.status, known.body, known.headers["etag"]) == (304, b"", tag)
    assert (part.status, whole.status) == (206, 200)


async def test_a_head_gives_the_headers_alone(world: MediaWorld) -> None:
    address = await upload(world, TEXT)

    answer = await world.client.ask("HEAD", f"{NEW}/download/{address}", token="alice")

    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "10")


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
async def test_what_is_not_there_is_not_found(world: MediaWorld, address: str) -> None:
    answer = await download(world, address)

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("path", [f"{NEW}/config", f"{OLD}/config", "/_matrix/media/r0/config"])
async def test_clients_are_told_how_large_uploads_may_be(world: MediaWorld, path: str) -> None:
    answer = await world.client.get(path, token="alice")

    assert answer.json == {"m.upload.size": 50 * 1024**2}


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
def test_only_safe_types_are_shown_in_the_browser(
    content_type: str, name: str | None, expected: str
) -> None:
    assert disposition(content_type, name) == expected


sizes = st.integers(min_value=0, max_value=50)
places = st.one_of(st.just(""), sizes.map(str))


@settings(max_examples=300)
@given(sizes, places, places)
def test_any_range_is_answered_as_a_slice(size: int, first: str, last: str) -> None:
    content = bytes(range(size))

    answer = serve(
        ServedFile("text/plain", size, None, "tag", lambda start, length: parts_of(b"")),
        Conditions(range=f"bytes={first}-{last}"),
    )

    if answer.status == 206:
        start, _, rest = answer.headers["content-range"].removeprefix("bytes ").partition("-")
        end = int(rest.partition("/")[0])
        whole = content[int(first) :] if first else content[-int(last) :]
        expected = whole[: int(last) - int(first) + 1] if first and last else whole
        assert content[int(start) : end + 1] == expected
        assert len(expected) == int(answer.headers["content-length"]) > 0
    elif answer.status == 416:
        assert (first and int(first) >= size) or (not first and 0 in (int(last), size))
    else:
        assert (first == last == "") or (first and last and int(last) < int(first))


def test_the_sandbox_is_not_started_for_downloads() -> None:
    assert not Sandbox()._idle
