"""Phone numbers in national format, if the optional library for them is installed."""

import importlib
from functools import cache
from typing import Any


def international_digits(country: str, number: str) -> str | None:
    """Return the digits of a phone number, beginning with the country code.

    Return None if the number is invalid, for the caller to reject, or the library is missing.
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
