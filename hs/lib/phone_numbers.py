"""Telephone numbers as people write them in their country, if the library for that is there."""

import importlib
from functools import cache
from typing import Any


def international(country: str, number: str) -> str | None:
    """Give the digits of a number from its country's code on; None: the library is not there.

    What is no number is given back as None too, for the caller to refuse.
    """
    library = _library()
    if library is None:
        return None
    try:
        parsed = library.parse(number, country.upper())
    except library.NumberParseException:
        return None
    text: str = library.format_number(parsed, library.PhoneNumberFormat.E164)
    return text.removeprefix("+")


@cache
def _library() -> Any:
    try:
        return importlib.import_module("phonenumbers")
    except ImportError:
        return None
