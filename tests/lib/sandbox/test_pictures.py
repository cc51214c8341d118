"""Thumbnails: sizes, rotation, animations and rejected pictures."""

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hs.lib.sandbox.picture_jobs import (
    DRAW,
    PictureJob,
    PictureReport,
    ThumbnailBox,
    encode,
    read_report,
    thumbnail_size,
)
from hs.lib.sandbox.pictures import draw
from hs.lib.sandbox.pool import Sandbox, SandboxFault, SandboxFaultKind

MANY_PIXELS = 32 << 20


def report_of(path: Path, *boxes: ThumbnailBox, max_pixels: int = MANY_PIXELS) -> PictureReport:
    return read_report(draw(encode(PictureJob(str(path), max_pixels, boxes))))


def save(picture: Image.Image, path: Path, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def image_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", (600, 300), "red")
    picture.paste("blue", (300, 0, 600, 300))
    return save(picture, tmp_path / "photo.jpg")


def save_animation(path: Path, **options: Any) -> Path:
    frames = [Image.new("RGB", (200, 100), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **options)
    return path


side_lengths = st.integers(min_value=1, max_value=5000)
boxes = st.builds(ThumbnailBox, side_lengths, side_lengths, st.sampled_from(["crop", "scale"]))


@given(side_lengths, side_lengths, boxes)
def test_thumbnail_fits_into_box_and_picture(width: int, height: int, box: ThumbnailBox) -> None:
    across, down = thumbnail_size((width, height), box)

    assert 1 <= across <= min(box.width, width)
    assert 1 <= down <= min(box.height, height)


@given(side_lengths, side_lengths, boxes)
def test_thumbnail_of_larger_picture_fills_box(width: int, height: int, box: ThumbnailBox) -> None:
    across, down = thumbnail_size((width, height), box)

    if width >= box.width and height >= box.height:
        reached = (across == box.width, down == box.height)
        assert all(reached) if box.method == "crop" else any(reached)


def test_crop_fills_box_and_scale_keeps_proportions(photo: Path) -> None:
    report = report_of(photo, ThumbnailBox(100, 100, "crop"), ThumbnailBox(100, 100, "scale"))

    crop, scale = [image_of(thumbnail.content) for thumbnail in report.drawn]
    assert (report.content_type, report.width, report.height) == ("image/jpeg", 600, 300)
    assert (crop.size, scale.size) == ((100, 100), (100, 50))
    assert {thumbnail.content_type for thumbnail in report.drawn} == {"image/jpeg"}


def test_rotated_photo_is_turned_upright_and_loses_metadata(tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker of cameras"
    path = save(picture, tmp_path / "turned.jpg", exif=exif)

    report = report_of(path, ThumbnailBox(100, 100, "scale"))

    thumbnail = image_of(report.drawn[0].content)
    assert (report.width, report.height) == (200, 400)
    assert thumbnail.size == (50, 100)
    assert not dict(thumbnail.getexif())


def test_transparency_is_preserved(tmp_path: Path) -> None:
    path = save(Image.new("RGBA", (90, 90), (255, 0, 0, 0)), tmp_path / "glass.webp")

    report = report_of(path, ThumbnailBox(30, 30, "crop"))

    assert report.drawn[0].content_type == "image/png"
    assert image_of(report.drawn[0].content).getpixel((15, 15))[3] == 0  # type: ignore[index]  # RGBA


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_animated_thumbnail_is_drawn_on_request(tmp_path: Path, name: str) -> None:
    path = save_animation(tmp_path / name)

    report = report_of(
        path, ThumbnailBox(50, 50, "scale", is_animated=True), ThumbnailBox(50, 50, "scale")
    )

    animated, still = report.drawn
    assert report.is_animated
    assert (animated.content_type, image_of(animated.content).size) == ("image/webp", (50, 25))
    assert image_of(animated.content).n_frames == 3  # type: ignore[attr-defined]  # of animations
    assert not getattr(image_of(still.content), "is_animated", False)


def test_still_picture_yields_still_thumbnail(photo: Path) -> None:
    report = report_of(photo, ThumbnailBox(50, 50, "scale", is_animated=True))

    assert not report.is_animated
    assert report.drawn[0].content_type == "image/jpeg"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_all_pixel_modes_are_drawn(tmp_path: Path, mode: str) -> None:
    path = save(Image.new(mode, (64, 64)), tmp_path / "some.png")

    assert image_of(report_of(path, ThumbnailBox(32, 32, "crop")).drawn[0].content).size == (32, 32)


def test_cmyk_is_converted_to_rgb(tmp_path: Path) -> None:
    path = save(Image.new("CMYK", (64, 64)), tmp_path / "print.jpg")

    assert image_of(report_of(path, ThumbnailBox(32, 32, "crop")).drawn[0].content).mode == "RGB"


def test_picture_with_too_many_pixels_is_not_drawn(photo: Path) -> None:
    report = report_of(photo, ThumbnailBox(32, 32, "crop"), max_pixels=1000)

    assert report.is_too_large
    assert report.drawn == ()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    pool = Sandbox(children=1)
    yield pool
    await pool.aclose()


async def test_file_that_is_not_a_picture_is_rejected(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")

    job = encode(PictureJob(str(path), MANY_PIXELS))

    with pytest.raises(SandboxFault) as caught:
        await sandbox.run(DRAW, job, timeout_s=60, max_bytes=1 << 20)

    assert caught.value.kind is SandboxFaultKind.FAILED


async def test_largest_allowed_picture_fits_into_memory_limit(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    path = save(Image.new("RGB", (5792, 5792), "red"), tmp_path / "large.png")
    all_boxes = tuple(ThumbnailBox(side, side, "crop") for side in (32, 96, 320, 640, 800))

    job = encode(PictureJob(str(path), MANY_PIXELS, all_boxes))
    report = read_report(await sandbox.run(DRAW, job, timeout_s=120, max_bytes=64 << 20))

    assert len(report.drawn) == len(all_boxes)
