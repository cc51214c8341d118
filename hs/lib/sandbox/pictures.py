"""Drawing of thumbnails; runs in a sandbox, as pictures are untrusted.

Thumbnails contain no metadata of the picture except its colour profile.
"""

import io
from collections.abc import Iterable

from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from hs.lib.sandbox.picture_jobs import (
    DrawnThumbnail,
    PictureJob,
    PictureReport,
    ThumbnailBox,
    encode,
    read_job,
    thumbnail_size,
)

# The formats that browsers display; each further decoder is a further risk.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP")
# MPO: several pictures in one JPEG file, as some cameras write.
PHOTOS = frozenset(("JPEG", "MPO", "WEBP", "AVIF", "BMP"))
ROTATED = frozenset((5, 6, 7, 8))
ORIENTATION = 0x0112
MAX_FRAMES = 500
# Limits on animations: decoded pixels as a multiple of the job's `max_pixels`, and pixels of all
# resized frames, which are in memory at the same time.
MAX_DECODED_FACTOR = 4
MAX_FRAME_PIXELS = 16 << 20
DEFAULT_FRAME_MS = 100
MAX_PROFILE_BYTES = 1 << 16
QUALITY = 82

# The limit on pixels comes with the job.
Image.MAX_IMAGE_PIXELS = None
# The sandbox forbids starting threads.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
Size = tuple[int, int]


def draw(payload: bytes) -> bytes:
    """Run a `PictureJob` and return a `PictureReport`, both encoded.

    Raises: Pillow's exceptions, if the file is not a picture.
    """
    job = read_job(payload)
    with Image.open(job.path, formats=FORMATS) as picture:
        return encode(_report(picture, job))


def _report(picture: ImageFile.ImageFile, job: PictureJob) -> PictureReport:
    is_turned = picture.getexif().get(ORIENTATION) in ROTATED
    width, height = picture.size[::-1] if is_turned else picture.size
    is_animated = bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"
    is_too_large = width * height > job.max_pixels
    drawn: tuple[DrawnThumbnail, ...] = ()
    if job.boxes and not is_too_large:
        drawn = tuple(_thumbnails(picture, (width, height), is_animated, job))
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


def _thumbnails(
    picture: ImageFile.ImageFile, size: Size, is_animated: bool, job: PictureJob
) -> Iterable[DrawnThumbnail]:
    animated_boxes = [box for box in job.boxes if box.is_animated and is_animated]
    for box in animated_boxes:
        frames = _frames(picture, size, box, job.max_pixels)
        if frames:
            yield DrawnThumbnail(box, "image/webp", _animation(picture, *frames))
        else:
            yield _still(picture, size, [box])[0]
        picture.seek(0)
    still_boxes = [box for box in job.boxes if box not in animated_boxes]
    if still_boxes:
        yield from _still(picture, size, still_boxes)


def _still(
    picture: ImageFile.ImageFile, size: Size, boxes: list[ThumbnailBox]
) -> list[DrawnThumbnail]:
    is_photo = picture.format in PHOTOS
    picture.draft("RGB", _decoding_size(picture.size, boxes))
    profile = picture.info.get("icc_profile", b"") if picture.mode in ("RGB", "RGBA") else b""
    upright = _in_rgb(ImageOps.exif_transpose(picture))
    thumbnails = []
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
        thumbnails.append(DrawnThumbnail(box, content_type, out.getvalue()))
    return thumbnails


def _decoding_size(size: Size, boxes: list[ThumbnailBox]) -> Size:
    """Return the smallest size to decode to that leaves enough pixels for good thumbnails."""
    longest = max(max(box.width, box.height) for box in boxes)
    factor = min(1.0, 2 * longest / min(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _in_rgb(picture: Image.Image) -> Image.Image:
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _fitted(picture: Image.Image, size: Size, box: ThumbnailBox) -> Image.Image:
    """Resize a picture, which may have been decoded to less than its own `size`."""
    target_size = thumbnail_size(size, box)
    width, height = picture.size
    region = (0.0, 0.0, float(width), float(height))
    if box.method == "crop":
        if width * box.height > height * box.width:
            left = (width - height * box.width / box.height) / 2
            region = (left, 0.0, width - left, float(height))
        else:
            top = (height - width * box.height / box.width) / 2
            region = (0.0, top, float(width), height - top)
    return picture.resize(target_size, Image.Resampling.LANCZOS, box=region, reducing_gap=3.0)


def _frames(
    picture: ImageFile.ImageFile, size: Size, box: ThumbnailBox, max_pixels: int
) -> tuple[list[Image.Image], list[int]] | None:
    """Return the resized frames and their durations in ms, or None if they exceed a limit."""
    count: int = getattr(picture, "n_frames", 1)
    width, height = thumbnail_size(size, box)
    decoded = count * picture.width * picture.height
    if (
        count > MAX_FRAMES
        or decoded > MAX_DECODED_FACTOR * max_pixels
        or count * width * height > MAX_FRAME_PIXELS
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
