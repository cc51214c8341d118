"""Thumbnails over HTTP."""

import io
from pathlib import Path
from typing import Any

import pytest
import trio
from PIL import Image

from hs.storage.database import Database
from tests.apis.media.test_downloads import upload
from tests.support.media import MediaWorld, open_media, opened, picture, until
from tests.support.web import WebResponse

THUMBNAIL = "/_matrix/client/v1/media/thumbnail"


async def get_thumbnail(
    world: MediaWorld, address: str, width: int, height: int, **more: Any
) -> WebResponse:
    query = {"width": width, "height": height, **more}
    return await world.client.get(f"{THUMBNAIL}/{address}", token="alice", query=query)


def animation() -> bytes:
    frames = [Image.new("RGB", (200, 100), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=40)
    return out.getvalue()


@pytest.mark.parametrize(
    ("requested", "method", "size"),
    [
        ((30, 30), "crop", (32, 32)),
        ((96, 96), "crop", (96, 96)),
        ((300, 200), "scale", (320, 240)),
        ((321, 200), "scale", (640, 480)),
        ((100, 100), "crop", (128, 128)),
        ((900, 700), "scale", (1024, 768)),
    ],
)
async def test_smallest_sufficient_configured_size_is_served(
    world: MediaWorld, requested: tuple[int, int], method: str, size: tuple[int, int]
) -> None:
    address = await upload(world, picture(1200, 900), "image/png")

    response = await get_thumbnail(world, address, *requested, method=method)

    assert response.status == 200, response.body
    assert opened(response.body).size == size
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == 'inline; filename="thumbnail.png"'
    assert response.headers["content-length"] == str(len(response.body))
    assert response.headers["content-security-policy"].startswith("sandbox;")


async def test_smaller_picture_is_served_unchanged(world: MediaWorld) -> None:
    content = picture(50, 40, "JPEG")
    address = await upload(world, content, "image/jpeg")

    response = await get_thumbnail(world, address, 100, 100)

    assert (response.body, response.headers["content-type"]) == (content, "image/jpeg")


async def test_dynamic_thumbnails_have_the_exact_size(database: Database, tmp_path: Path) -> None:
    async with open_media(database, tmp_path, dynamic_thumbnails=True) as world:
        address = await upload(world, picture(400, 300), "image/png")
        crop = await get_thumbnail(world, address, 77, 33, method="crop")
        scale = await get_thumbnail(world, address, 80, 5000, method="scale")

    assert opened(crop.body).size == (77, 33)
    assert opened(scale.body).size == (80, 60)


async def test_thumbnails_are_generated_after_the_upload_and_stored(world: MediaWorld) -> None:
    async with world.process.duties("thumbnails of uploads"):
        address = await upload(world, picture(1000, 800), "image/png")

        await until(lambda: len(world.files("thumbnails")) == 5)
        stored = world.files("thumbnails")
        response = await get_thumbnail(world, address, 32, 32, method="crop")

        assert response.status == 200
        assert world.files("thumbnails") == stored


async def test_lost_thumbnail_is_generated_again(world: MediaWorld) -> None:
    address = await upload(world, picture(1000, 800), "application/octet-stream")
    first = await get_thumbnail(world, address, 32, 32, method="crop")
    for path in world.files("thumbnails"):
        path.unlink()

    second = await get_thumbnail(world, address, 32, 32, method="crop")

    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body


async def test_concurrent_requests_generate_one_thumbnail(world: MediaWorld) -> None:
    address = await upload(world, picture(1000, 800), "application/octet-stream")
    responses: list[WebResponse] = []

    async def get() -> None:
        responses.append(await get_thumbnail(world, address, 200, 200))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(get)

    assert {response.body for response in responses} == {responses[0].body}
    assert len(world.files("thumbnails")) == 1


async def test_thumbnail_is_animated_only_on_request(world: MediaWorld) -> None:
    address = await upload(world, animation(), "image/gif")

    still = await get_thumbnail(world, address, 50, 50)
    animated = await get_thumbnail(world, address, 50, 50, animated="true")
    large = await get_thumbnail(world, address, 500, 500)
    large_animated = await get_thumbnail(world, address, 500, 500, animated="true")

    assert [
        getattr(opened(response.body), "is_animated", False) for response in (still, animated)
    ] == [
        False,
        True,
    ]
    assert animated.headers["content-type"] == "image/webp"
    assert not getattr(opened(large.body), "is_animated", False)
    assert large_animated.body == animation()


@pytest.mark.parametrize("content", [b"", b"just text", picture()[:200], b"\x89PNG\r\n\x1a\n"])
async def test_invalid_picture_has_no_thumbnail(world: MediaWorld, content: bytes) -> None:
    address = await upload(world, content, "image/png")

    responses = [await get_thumbnail(world, address, 10, 10) for _ in range(2)]

    assert [(response.status, response.errcode) for response in responses] == [
        (400, "M_UNKNOWN")
    ] * 2


async def test_picture_with_too_many_pixels_has_no_thumbnail(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(database, tmp_path, max_image_pixels=10_000) as world:
        address = await upload(world, picture(101, 100), "image/png")
        response = await get_thumbnail(world, address, 10, 10)

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ("width=0&height=10", "M_INVALID_PARAM"),
        ("width=-5&height=10", "M_INVALID_PARAM"),
        ("width=wide&height=10", "M_INVALID_PARAM"),
        ("height=10", "M_MISSING_PARAM"),
        ("width=10&height=10&method=squeeze", "M_INVALID_PARAM"),
    ],
)
async def test_invalid_size_is_rejected(world: MediaWorld, query: str, errcode: str) -> None:
    address = await upload(world, picture(), "image/png")

    response = await world.client.get(f"{THUMBNAIL}/{address}?{query}", token="alice")

    assert (response.status, response.errcode) == (400, errcode)


async def test_unmodified_thumbnail_is_not_sent_again(world: MediaWorld) -> None:
    address = await upload(world, picture(), "image/png")
    tag = (await get_thumbnail(world, address, 32, 32)).headers["etag"]

    response = await world.client.get(
        f"{THUMBNAIL}/{address}?width=32&height=32",
        token="alice",
        headers={"if-none-match": tag},
    )

    assert response.status == 304
