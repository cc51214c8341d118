"""The choice of thumbnails: never larger than the picture, and not smaller than necessary.

Spec: client-server API, Thumbnails.
"""

from hypothesis import given
from hypothesis import strategies as st

from hs.lib.sandbox.picture_jobs import Method, thumbnail_size
from hs.services.media.thumbnail_sizes import RequestedThumbnail, choose_thumbnail
from hs.settings.sections.media import MediaSettings
from hs.storage.media.media_files import ImageProperties

CONFIGURED = MediaSettings().thumbnail_sizes
sides = st.integers(20, 3000)


def thumbnail_size_for(
    picture: ImageProperties, request: RequestedThumbnail, *, is_exact: bool
) -> tuple[int, int]:
    size = (picture.width, picture.height)
    box = choose_thumbnail(picture, request, CONFIGURED, is_exact)
    return size if box is None else thumbnail_size(size, box)


@given(sides, sides, sides, sides, st.sampled_from(("crop", "scale")), st.booleans())
def test_thumbnail_is_at_least_as_large_as_requested_or_possible(
    width: int,
    height: int,
    requested_width: int,
    requested_height: int,
    method: Method,
    is_exact: bool,
) -> None:
    picture = ImageProperties("image/png", width, height, is_animated=False)

    actual_width, actual_height = thumbnail_size_for(
        picture, RequestedThumbnail(requested_width, requested_height, method), is_exact=is_exact
    )

    assert actual_width <= width
    assert actual_height <= height
    if method == "scale":
        assert actual_width >= min(requested_width, width) or actual_height >= min(
            requested_height, height
        )
    else:
        # If the picture is smaller: the largest crop with the requested aspect ratio.
        scale = min(1.0, width / requested_width, height / requested_height)
        assert actual_width >= int(requested_width * scale)
        assert actual_height >= int(requested_height * scale)


def test_configured_crop_that_would_be_too_small_is_not_chosen() -> None:
    banner = ImageProperties("image/png", 500, 90, is_animated=False)

    width, height = thumbnail_size_for(banner, RequestedThumbnail(96, 60, "crop"), is_exact=False)

    assert (width, height) >= (96, 60)
    assert height >= 60
