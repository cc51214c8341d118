"""Durations, sizes and the other types of settings."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.settings.kinds import (
    DURATION,
    SIZE,
    STRING,
    At,
    Unfit,
    choice,
    endless,
    integer,
    list_of,
    one_or_more,
)


def at() -> At:
    return At(("key",), Path(), [])


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
def test_durations_have_units(written: Any, ms: int) -> None:
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
def test_sizes_are_powers_of_1024(written: Any, size: int) -> None:
    assert SIZE.read(written, at()) == size


@pytest.mark.parametrize(
    "written", ["soon", "-5m", "1.5", "1.5ms", ".5s", "5 fortnights", True, -1, 1.5, [], None]
)
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(Unfit, match="expected a duration"):
        DURATION.read(written, at())


@given(st.integers(min_value=0, max_value=10**6), st.sampled_from("smhdwy"))
def test_a_unit_is_a_factor(number: int, unit: str) -> None:
    assert DURATION.read(f"{number}{unit}", at()) == number * DURATION.read(f"1{unit}", at())


@pytest.mark.parametrize("written", [None, "infinity"])
def test_an_endless_duration_is_none(written: Any) -> None:
    assert endless(DURATION).read(written, at()) is None


def test_an_unquoted_off_is_the_word_off() -> None:
    assert choice("all", "off").read(False, at()) == "off"


def test_a_single_entry_may_stand_for_a_list() -> None:
    assert one_or_more(STRING).read("one", at()) == ("one",)


def test_a_mistake_in_a_list_names_its_place() -> None:
    with pytest.raises(Unfit) as error:
        list_of(integer(least=1)).read([1, 0], at())

    assert error.value.at.key == "key.1"
