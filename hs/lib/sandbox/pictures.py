"""Draws thumbnails; runs in a sandbox, as pictures come from anybody.

No metadata of the picture goes into a thumbnail, except its colour profile.
"""

import io
from collections.abc import Iterable

from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from hs.lib.sandbox.picture_jobs import (
    Box,
    Drawn,
    PictureJob,
    PictureReport,
    encode,
    read_job,
    thumbnail_size,
)

# What browsers show; each further decoder is a further risk.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP")
# Some cameras put several pictures into one JPEG file: MPO.
PHOTOS = frozenset(("JPEG", "MPO", "WEBP", "AVIF", "BMP"))
ROTATED = frozenset((5, 6, 7, 8))
ORIENTATION = 0x0112
MAX_FRAMES = 500
# How much an animation may take: of decoded pixels, and of pixels kept at once.
DECODED_TIMES = 4
KEPT_PIXELS = 16 << 20
DEFAULT_FRAME_MS = 100
MAX_PROFILE_BYTES = 1 << 16
QUALITY = 82

# The bound on pixels is the job's.
Image.MAX_IMAGE_PIXELS = None
# The sandbox lets nobody but root start threads.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
Size = tuple[int, int]


def draw(payload: bytes) -> bytes:
    """Do a `PictureJob`; give a `PictureReport`. Raises: whatever Pillow does on what is none."""
    job = read_job(payload)
    with Image.open(job.path, formats=FORMATS) as picture:
        return encode(_report(picture, job))


def _report(picture: ImageFile.ImageFile, job: PictureJob) -> PictureReport:
    is_turned = picture.getexif().get(ORIENTATION) in ROTATED
    width, height = picture.size[::-1] if is_turned else picture.size
    is_animated = bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"
    is_too_large = width * height > job.max_pixels
    drawn: tuple[Drawn, ...] = ()
    if job.boxes and not is_too_large:
        drawn = tuple(_all_drawn(picture, (width, height), is_animated, job))
    return PictureReport(
        content_type=_type_of(picture),
        width=width,
        height=height,
        is_animated=is_animated,
        is_too_large=is_too_large,
        drawn=drawn,
    )


def _type_of(picture: ImageFile.ImageFile) -> str:
    if picture.format == "MPO":
        return "image/jpeg"
    return Image.MIME.get(picture.format or "", "application/octet-stream")


def _all_drawn(
    picture: ImageFile.ImageFile, size: Size, is_animated: bool, job: PictureJob
) -> Iterable[Drawn]:
    moving = [box for box in job.boxes if box.is_animated and is_animated]
    for box in moving:
        frames = _frames(picture, size, box, job.max_pixels)
        if frames:
            yield Drawn(box, "image/webp", _animation(picture, *frames))
        else:
            yield _still(picture, size, [box])[0]
        picture.seek(0)
    still = [box for box in job.boxes if box not in moving]
    if still:
        yield from _still(picture, size, still)


def _still(picture: ImageFile.ImageFile, size: Size, boxes: list[Box]) -> list[Drawn]:
    is_photo = picture.format in PHOTOS
    picture.draft("RGB", _enough(picture.size, boxes))
    profile = picture.info.get("icc_profile", b"") if picture.mode in ("RGB", "RGBA") else b""
    upright = _plain(ImageOps.exif_transpose(picture))
    found = []
    for box in boxes:
        thumbnail = _fitted(upright, size, box)
        out = io.BytesIO()
        options = {"icc_profile": profile} if 0 < len(profile) <= MAX_PROFILE_BYTES else {}
        if is_photo and thumbnail.mode == "RGB":
            thumbnail.save(out, "JPEG", quality=QUALITY, progressive=True, exif=b"", **options)
            content_type = "image/jpeg"
        else:
            thumbnail.save(out, "PNG", **options)
            content_type = "image/png"
        found.append(Drawn(box, content_type, out.getvalue()))
    return found


def _enough(size: Size, boxes: list[Box]) -> Size:
    """Give the size in which it suffices to decode, so that resizing still looks well."""
    longest = max(max(box.width, box.height) for box in boxes)
    factor = min(1.0, 2 * longest / min(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _plain(picture: Image.Image) -> Image.Image:
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _fitted(picture: Image.Image, size: Size, box: Box) -> Image.Image:
    """Resize; `size` is that of the picture as it was before it was decoded smaller."""
    wanted = thumbnail_size(size, box)
    width, height = picture.size
    region = (0.0, 0.0, float(width), float(height))
    if box.method == "crop":
        if width * box.height > height * box.width:
            left = (width - height * box.width / box.height) / 2
            region = (left, 0.0, width - left, float(height))
        else:
            top = (height - width * box.height / box.width) / 2
            region = (0.0, top, float(width), height - top)
    return picture.resize(wanted, Image.Resampling.LANCZOS, box=region, reducing_gap=3.0)


def _frames(
    picture: ImageFile.ImageFile, size: Size, box: Box, max_pixels: int
) -> tuple[list[Image.Image], list[int]] | None:
    """Give the frames, resized, and how long each is shown; None when it were too much."""
    count: int = getattr(picture, "n_frames", 1)
    width, height = thumbnail_size(size, box)
    decoded = count * picture.width * picture.height
    if (
        count > MAX_FRAMES
        or decoded > DECODED_TIMES * max_pixels
        or count * width * height > KEPT_PIXELS
    ):
        return None
    frames, durations = [], []
    for number in range(count):
        picture.seek(number)
        picture.load()
        frames.append(_fitted(picture.convert("RGBA"), size, box))
        durations.append(int(picture.info.get("duration") or DEFAULT_FRAME_MS))
    return frames, durations


def _animation(
    picture: ImageFile.ImageFile, frames: list[Image.Image], durations: list[int]
) -> bytes:
    out = io.BytesIO()
    frames[0].save(
        out,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=int(picture.info.get("loop", 0)),
        quality=QUALITY,
        method=2,
    )
    return out.getvalue()
