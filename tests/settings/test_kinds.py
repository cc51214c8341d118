"""The kinds of settings: durations, sizes, lists and others."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.settings.kinds import (
    DURATION,
    SIZE,
    STRING,
    ConfigLocation,
    InvalidSetting,
    choice,
    integer,
    list_of,
    one_or_more,
    or_infinity,
)


def at() -> ConfigLocation:
    return ConfigLocation(("key",), Path(), [])


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (500, 500),
        ("500", 500),
        ("5s", 5_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        ("1y", 31_536_000_000),
        ("250ms", 250),
        ("0.5s", 500),
    ],
)
def test_duration_is_read_in_milliseconds(written: Any, ms: int) -> None:
    assert DURATION.read(written, at()) == ms


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (10, 10),
        ("10", 10),
        ("10K", 10_240),
        ("50M", 50 * 1024**2),
        ("500MiB", 500 * 1024**2),
        ("1g", 1024**3),
        ("87KiB", 87 * 1024),
    ],
)
def test_size_units_are_powers_of_1024(written: Any, size: int) -> None:
    assert SIZE.read(written, at()) == size


@pytest.mark.parametrize(
    "written", ["soon", "-5m", "1.5", "1.5ms", ".5s", "5 fortnights", True, -1, 1.5, [], None]
)
def test_invalid_duration_is_rejected(written: Any) -> None:
    with pytest.raises(InvalidSetting, match="expected a duration"):
        DURATION.read(written, at())


@given(st.integers(min_value=0, max_value=10**6), st.sampled_from("smhdwy"))
def test_duration_unit_multiplies_the_number(number: int, unit: str) -> None:
    assert DURATION.read(f"{number}{unit}", at()) == number * DURATION.read(f"1{unit}", at())


@pytest.mark.parametrize("written", [None, "infinity"])
def test_infinite_duration_is_none(written: Any) -> None:
    assert or_infinity(DURATION).read(written, at()) is None


def test_unquoted_off_is_read_as_the_word_off() -> None:
    assert choice("all", "off").read(False, at()) == "off"


def test_single_entry_is_read_as_a_list() -> None:
    assert one_or_more(STRING).read("one", at()) == ("one",)


def test_mistake_in_a_list_names_the_index() -> None:
    with pytest.raises(InvalidSetting) as error:
        list_of(integer(minimum=1)).read([1, 0], at())

    assert error.value.at.key == "key.1"
