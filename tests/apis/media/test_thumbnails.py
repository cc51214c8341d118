"""Thumbnails as clients ask for them."""

import io
from pathlib import Path
from typing import Any

import pytest
import trio
from PIL import Image

from hs.storage.database import Database
from tests.apis.media.test_downloads import upload
from tests.support.media import MediaWorld, open_media, opened, picture
from tests.support.web import Answer

THUMBNAIL = "/_matrix/client/v1/media/thumbnail"


async def ask(world: MediaWorld, address: str, width: int, height: int, **more: Any) -> Answer:
    query = {"width": width, "height": height, **more}
    return await world.client.get(f"{THUMBNAIL}/{address}", token="alice", query=query)


def moving() -> bytes:
    frames = [Image.new("RGB", (200, 100), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=40)
    return out.getvalue()


@pytest.mark.parametrize(
    ("wanted", "method", "size"),
    [
        ((30, 30), "crop", (32, 32)),
        ((96, 96), "crop", (96, 96)),
        ((300, 200), "scale", (320, 240)),
        ((321, 200), "scale", (640, 480)),
        ((100, 100), "crop", (128, 128)),
        ((900, 700), "scale", (1024, 768)),
    ],
)
async def test_a_listed_size_is_given_if_one_is_large_enough(
    world: MediaWorld, wanted: tuple[int, int], method: str, size: tuple[int, int]
) -> None:
    address = await upload(world, picture(1200, 900), "image/png")

    answer = await ask(world, address, *wanted, method=method)

    assert answer.status == 200, answer.body
    assert opened(answer.body).size == size
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'inline; filename="thumbnail.png"'
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["content-security-policy"].startswith("sandbox;")


async def test_a_picture_that_is_smaller_is_given_as_it_is(world: MediaWorld) -> None:
    content = picture(50, 40, "JPEG")
    address = await upload(world, content, "image/jpeg")

    answer = await ask(world, address, 100, 100)

    assert (answer.body, answer.headers["content-type"]) == (content, "image/jpeg")


async def test_exact_sizes_are_made_where_that_is_set(database: Database, tmp_path: Path) -> None:
    async with open_media(database, tmp_path, dynamic_thumbnails=True) as world:
        address = await upload(world, picture(400, 300), "image/png")
        crop = await ask(world, address, 77, 33, method="crop")
        scale = await ask(world, address, 80, 5000, method="scale")

    assert opened(crop.body).size == (77, 33)
    assert opened(scale.body).size == (80, 60)


async def test_thumbnails_are_drawn_ahead_and_kept(world: MediaWorld) -> None:
    address = await upload(world, picture(1000, 800), "image/png")

    with trio.fail_after(60):
        while True:
            before = world.files("thumbnails")
            if len(before) == 5:
                break
            await trio.sleep(0.01)
    answer = await ask(world, address, 32, 32, method="crop")

    assert answer.status == 200
    assert world.files("thumbnails") == before


async def test_a_lost_thumbnail_is_drawn_again(world: MediaWorld) -> None:
    address = await upload(world, picture(1000, 800), "application/octet-stream")
    first = await ask(world, address, 32, 32, method="crop")
    for path in world.files("thumbnails"):
        path.unlink()

    second = await ask(world, address, 32, 32, method="crop")

    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body


async def test_many_who_ask_at_once_have_it_drawn_once(world: MediaWorld) -> None:
    address = await upload(world, picture(1000, 800), "application/octet-stream")
    answers: list[Answer] = []

    async def one() -> None:
        answers.append(await ask(world, address, 200, 200))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)

    assert {one.body for one in answers} == {answers[0].body}
    assert len(world.files("thumbnails")) == 1


async def test_an_animation_moves_only_for_those_who_ask(world: MediaWorld) -> None:
    address = await upload(world, moving(), "image/gif")

    still = await ask(world, address, 50, 50)
    moves = await ask(world, address, 50, 50, animated="true")
    whole = await ask(world, address, 500, 500)
    whole_moves = await ask(world, address, 500, 500, animated="true")

    assert [getattr(opened(one.body), "is_animated", False) for one in (still, moves)] == [
        False,
        True,
    ]
    assert moves.headers["content-type"] == "image/webp"
    assert not getattr(opened(whole.body), "is_animated", False)
    assert whole_moves.body == moving()


@pytest.mark.parametrize("content", [b"", b"just text", picture()[:200], b"\x89PNG\r\n\x1a\n"])
async def test_what_is_no_picture_has_no_thumbnail(world: MediaWorld, content: bytes) -> None:
    address = await upload(world, content, "image/png")

    answers = [await ask(world, address, 10, 10) for _ in range(2)]

    assert [(one.status, one.errcode) for one in answers] == [(400, "M_UNKNOWN")] * 2


async def test_a_picture_with_too_many_pixels_has_none(database: Database, tmp_path: Path) -> None:
    async with open_media(database, tmp_path, max_image_pixels=10_000) as world:
        address = await upload(world, picture(101, 100), "image/png")
        answer = await ask(world, address, 10, 10)

    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")


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
async def test_sizes_that_make_no_sense_are_refused(
    world: MediaWorld, query: str, errcode: str
) -> None:
    address = await upload(world, picture(), "image/png")

    answer = await world.client.get(f"{THUMBNAIL}/{address}?{query}", token="alice")

    assert (answer.status, answer.errcode) == (400, errcode)


async def test_a_thumbnail_is_not_sent_twice(world: MediaWorld) -> None:
    address = await upload(world, picture(), "image/png")
    tag = (await ask(world, address, 32, 32)).headers["etag"]

    answer = await world.client.get(
        f"{THUMBNAIL}/{address}?width=32&height=32",
        token="alice",
        headers={"if-none-match": tag},
    )

    assert answer.status == 304
