"""The choice of thumbnail for a request: a configured size, a larger one, or the picture itself.

Spec: client-server API, Thumbnails: thumbnails are not smaller than requested, unless the picture
is, and never larger than the picture.
"""

from collections.abc import Sequence

import attrs

from hs.lib.sandbox.picture_jobs import Method, ThumbnailBox, thumbnail_size
from hs.settings.sections.media import ThumbnailSize
from hs.storage.media.media_files import ImageProperties

# Types that every browser displays, and that the specification permits for thumbnails.
SERVED_UNCHANGED = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
# Used if no configured size is large enough. They are few, because each may be stored per picture.
LARGER_SIDES = (128, 256, 512, 1024, 1600, 2400, 3200, 4800)


@attrs.frozen
class RequestedThumbnail:
    """A client's request for a thumbnail."""

    width: int
    height: int
    method: Method
    is_animated: bool = False


def choose_thumbnail(
    picture: ImageProperties,
    request: RequestedThumbnail,
    listed: Sequence[ThumbnailSize],
    is_exact: bool,
) -> ThumbnailBox | None:
    """Return the thumbnail to serve; None means the picture itself.

    With `is_exact`, thumbnails are generated in the requested size.
    """
    is_animated = request.is_animated and picture.is_animated
    fits = picture.width <= request.width and picture.height <= request.height
    has_right_animation = is_animated == picture.is_animated
    if fits and has_right_animation and picture.content_type in SERVED_UNCHANGED:
        return None
    width, height = request.width, request.height
    if request.method == "scale" or fits:
        width, height = min(width, picture.width), min(height, picture.height)
    if is_exact:
        return ThumbnailBox(width, height, request.method, is_animated)
    with_method = [size for size in listed if size.method == request.method] or listed
    large_enough = [
        size
        for size in with_method
        if size.width >= width
        and size.height >= height
        and _covers(picture, ThumbnailBox(size.width, size.height, _method(size)), (width, height))
    ]
    if large_enough:
        best = min(large_enough, key=lambda size: _misfit(size, request))
        return ThumbnailBox(best.width, best.height, _method(best), is_animated)
    longest = max(width, height)
    side = next((length for length in LARGER_SIDES if length >= longest), LARGER_SIDES[-1])
    if request.method == "scale":
        return ThumbnailBox(side, side, "scale", is_animated)
    factor = side / longest
    larger = ThumbnailBox(
        max(1, round(width * factor)), max(1, round(height * factor)), "crop", is_animated
    )
    if _covers(picture, larger, (width, height)):
        return larger
    return ThumbnailBox(width, height, "crop", is_animated)


def thumbnails_in_advance(
    picture: ImageProperties, listed: Sequence[ThumbnailSize]
) -> tuple[ThumbnailBox, ...]:
    """Return the thumbnails to generate after an upload: all configured sizes that are smaller."""
    return tuple(
        ThumbnailBox(size.width, size.height, _method(size))
        for size in listed
        if size.width < picture.width or size.height < picture.height
    )


def _covers(picture: ImageProperties, box: ThumbnailBox, size: tuple[int, int]) -> bool:
    """Return whether a crop, whose aspect ratio may differ, is at least as large as requested."""
    if box.method != "crop":
        return True
    width, height = size
    scale = min(1.0, picture.width / width, picture.height / height)
    thumbnail_width, thumbnail_height = thumbnail_size((picture.width, picture.height), box)
    return thumbnail_width >= int(width * scale) and thumbnail_height >= int(height * scale)


def _misfit(size: ThumbnailSize, request: RequestedThumbnail) -> tuple[float, int]:
    """Return a sort key: difference in aspect ratio (for crops), then area."""
    ratio_difference = 0.0
    if request.method == "crop":
        ratio_difference = abs(size.width / size.height - request.width / request.height)
    return ratio_difference, size.width * size.height


def _method(size: ThumbnailSize) -> Method:
    return "crop" if size.method == "crop" else "scale"
