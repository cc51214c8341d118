"""Which thumbnail answers a request: one of the listed sizes, a larger one, or the picture itself.

Spec: client-server API, Thumbnails: never smaller than asked for unless the picture is, never
larger than the picture.
"""

from collections.abc import Sequence

import attrs

from hs.lib.sandbox.picture_jobs import Box, Method, thumbnail_size
from hs.settings.sections.media import ThumbnailSize
from hs.storage.media.media_files import Picture

# What every browser shows, and the specification lets be a thumbnail.
SHOWN_AS_IT_IS = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
# For whom no listed size is large enough; few, as each may be stored for each picture.
LARGER_SIDES = (128, 256, 512, 1024, 1600, 2400, 3200, 4800)


@attrs.frozen
class Wanted:
    """What a client asks for."""

    width: int
    height: int
    method: Method
    is_animated: bool = False


def chosen(
    picture: Picture, wanted: Wanted, listed: Sequence[ThumbnailSize], is_exact: bool
) -> Box | None:
    """Choose the thumbnail to give; None stands for the picture as it is.

    `is_exact` lets thumbnails be made in whatever size is asked for.
    """
    is_animated = wanted.is_animated and picture.is_animated
    fits = picture.width <= wanted.width and picture.height <= wanted.height
    moves_as_wanted = is_animated == picture.is_animated
    if fits and moves_as_wanted and picture.content_type in SHOWN_AS_IT_IS:
        return None
    width, height = wanted.width, wanted.height
    if wanted.method == "scale" or fits:
        width, height = min(width, picture.width), min(height, picture.height)
    if is_exact:
        return Box(width, height, wanted.method, is_animated)
    alike = [size for size in listed if size.method == wanted.method] or listed
    enough = [
        size
        for size in alike
        if size.width >= width
        and size.height >= height
        and _comes_out(picture, Box(size.width, size.height, _method(size)), (width, height))
    ]
    if enough:
        best = min(enough, key=lambda size: _misfit(size, wanted))
        return Box(best.width, best.height, _method(best), is_animated)
    longest = max(width, height)
    side = next((one for one in LARGER_SIDES if one >= longest), LARGER_SIDES[-1])
    if wanted.method == "scale":
        return Box(side, side, "scale", is_animated)
    factor = side / longest
    larger = Box(max(1, round(width * factor)), max(1, round(height * factor)), "crop", is_animated)
    if _comes_out(picture, larger, (width, height)):
        return larger
    return Box(width, height, "crop", is_animated)


def made_in_advance(picture: Picture, listed: Sequence[ThumbnailSize]) -> tuple[Box, ...]:
    """Give what is drawn when a picture is uploaded: all listed sizes that are smaller."""
    return tuple(
        Box(size.width, size.height, _method(size))
        for size in listed
        if size.width < picture.width or size.height < picture.height
    )


def _comes_out(picture: Picture, box: Box, wanted: tuple[int, int]) -> bool:
    """Tell whether a crop, whose shape may be another, is as large as the wanted one would be."""
    if box.method != "crop":
        return True
    width, height = wanted
    part = min(1.0, picture.width / width, picture.height / height)
    across, down = thumbnail_size((picture.width, picture.height), box)
    return across >= int(width * part) and down >= int(height * part)


def _misfit(size: ThumbnailSize, wanted: Wanted) -> tuple[float, int]:
    """Order sizes: first by how little their shape differs, then by how small they are."""
    shape = 0.0
    if wanted.method == "crop":
        shape = abs(size.width / size.height - wanted.width / wanted.height)
    return shape, size.width * size.height


def _method(size: ThumbnailSize) -> Method:
    return "crop" if size.method == "crop" else "scale"
