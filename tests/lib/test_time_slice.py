"""Time slices: the parts of a text that are joined without blocking other tasks."""

import pytest

from hs.lib.time_slice import PARTS_AT_ONCE, TimeSlice


@pytest.mark.parametrize("count", [0, 1, PARTS_AT_ONCE, PARTS_AT_ONCE + 1, 3 * PARTS_AT_ONCE])
async def test_parts_are_joined_in_order(count: int) -> None:
    parts = [b"%d," % number for number in range(count)]

    assert await TimeSlice().join(parts) == b"".join(parts)
