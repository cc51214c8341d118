"""The input and output of `hs.lib.sandbox.pictures`, which runs in a sandbox."""

from typing import Literal

import attrs
import msgspec

DRAW = "hs.lib.sandbox.pictures:draw"
Method = Literal["crop", "scale"]


@attrs.frozen
class ThumbnailBox:
    """A size that a thumbnail fills (crop) or fits into (scale); images are never enlarged."""

    width: int
    height: int
    method: Method
    is_animated: bool = False


@attrs.frozen
class PictureJob:
    """Inspect a file and draw thumbnails of it; without `boxes`, only inspect it."""

    path: str
    max_pixels: int
    boxes: tuple[ThumbnailBox, ...] = ()


@attrs.frozen
class DrawnThumbnail:
    """A thumbnail."""

    box: ThumbnailBox
    content_type: str
    content: bytes


@attrs.frozen
class PictureReport:
    """Type and size of a picture, after rotation, and its thumbnails.

    A picture with more than `max_pixels` gets no thumbnails.
    """

    content_type: str
    width: int
    height: int
    is_animated: bool
    is_too_large: bool = False
    drawn: tuple[DrawnThumbnail, ...] = ()


def thumbnail_size(size: tuple[int, int], box: ThumbnailBox) -> tuple[int, int]:
    """Return the size of the thumbnail of a picture for a box."""
    width, height = size
    if box.method == "crop":
        across = min(float(width), height * box.width / box.height)
        down = min(float(height), width * box.height / box.width)
        return max(1, round(min(box.width, across))), max(1, round(min(box.height, down)))
    factor = min(box.width / width, box.height / height, 1.0)
    return max(1, round(width * factor)), max(1, round(height * factor))


def encode(value: PictureJob | PictureReport) -> bytes:
    """Encode a job or a report."""
    return msgspec.msgpack.encode(value)


def read_job(payload: bytes) -> PictureJob:
    """Decode a job."""
    return msgspec.msgpack.decode(payload, type=PictureJob)


def read_report(payload: bytes) -> PictureReport:
    """Decode a report.

    Raises: msgspec.DecodeError.
    """
    return msgspec.msgpack.decode(payload, type=PictureReport)
