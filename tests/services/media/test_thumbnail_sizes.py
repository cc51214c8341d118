"""Which thumbnail is chosen: never larger than the picture, nor smaller than it could be.

Spec: client-server API, Thumbnails.
"""

from hypothesis import given
from hypothesis import strategies as st

from hs.lib.sandbox.picture_jobs import Method, thumbnail_size
from hs.services.media.thumbnail_sizes import Wanted, chosen
from hs.settings.sections.media import MediaSettings
from hs.storage.media.media_files import Picture

LISTED = MediaSettings().thumbnail_sizes
sides = st.integers(20, 3000)


def given_for(picture: Picture, wanted: Wanted, *, is_exact: bool) -> tuple[int, int]:
    size = (picture.width, picture.height)
    box = chosen(picture, wanted, LISTED, is_exact)
    return size if box is None else thumbnail_size(size, box)


@given(sides, sides, sides, sides, st.sampled_from(("crop", "scale")), st.booleans())
def test_what_is_given_is_as_large_as_was_asked_for_or_as_can_be(
    width: int, height: int, across: int, down: int, method: Method, is_exact: bool
) -> None:
    picture = Picture("image/png", width, height, is_animated=False)

    given_across, given_down = given_for(picture, Wanted(across, down, method), is_exact=is_exact)

    assert given_across <= width
    assert given_down <= height
    if method == "scale":
        assert given_across >= min(across, width) or given_down >= min(down, height)
    else:
        # The largest of the shape that was asked for, if the picture is smaller.
        part = min(1.0, width / across, height / down)
        assert given_across >= int(across * part)
        assert given_down >= int(down * part)


def test_a_listed_crop_of_another_shape_is_not_taken_if_it_comes_out_too_small() -> None:
    banner = Picture("image/png", 500, 90, is_animated=False)

    across, down = given_for(banner, Wanted(96, 60, "crop"), is_exact=False)

    assert (across, down) >= (96, 60)
    assert down >= 60
