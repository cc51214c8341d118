"""What is asked of `hs.lib.sandbox.pictures`, which runs in a sandbox, and what it answers."""

from typing import Literal

import attrs
import msgspec

DRAW = "hs.lib.sandbox.pictures:draw"
Method = Literal["crop", "scale"]


@attrs.frozen
class Box:
    """A size that a thumbnail fills (crop) or fits into (scale); it is never made larger."""

    width: int
    height: int
    method: Method
    is_animated: bool = False


@attrs.frozen
class PictureJob:
    """Look at the file and draw it in these sizes; with none, only look."""

    path: str
    max_pixels: int
    boxes: tuple[Box, ...] = ()


@attrs.frozen
class Drawn:
    """One thumbnail."""

    box: Box
    content_type: str
    content: bytes


@attrs.frozen
class PictureReport:
    """What the file shows, as it is to be seen, and its thumbnails.

    Nothing is drawn of a picture with more pixels than allowed.
    """

    content_type: str
    width: int
    height: int
    is_animated: bool
    is_too_large: bool = False
    drawn: tuple[Drawn, ...] = ()


def thumbnail_size(size: tuple[int, int], box: Box) -> tuple[int, int]:
    """Tell how large a thumbnail comes out."""
    width, height = size
    if box.method == "crop":
        across = min(float(width), height * box.width / box.height)
        down = min(float(height), width * box.height / box.width)
        return max(1, round(min(box.width, across))), max(1, round(min(box.height, down)))
    factor = min(box.width / width, box.height / height, 1.0)
    return max(1, round(width * factor)), max(1, round(height * factor))


def encode(value: PictureJob | PictureReport) -> bytes:
    """Write a job or a report."""
    return msgspec.msgpack.encode(value)


def read_job(payload: bytes) -> PictureJob:
    """Read a job."""
    return msgspec.msgpack.decode(payload, type=PictureJob)


def read_report(payload: bytes) -> PictureReport:
    """Read a report. Raises: msgspec.DecodeError."""
    return msgspec.msgpack.decode(payload, type=PictureReport)
