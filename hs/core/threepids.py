"""Third-party identifiers: e-mail addresses and phone numbers in their canonical form.

Spec: appendices, 3PID Types.
"""

import re
from typing import Final

from hs.core.errors import InvalidParam

EMAIL: Final = "email"
MSISDN: Final = "msisdn"

MAX_ADDRESS_CHARS = 500
_CLIENT_SECRET = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
# Quoted local parts and address literals are not accepted: real addresses do not have them.
_WORD = r"[^\s@\x00-\x1f\x7f\ud800-\udfff\"(),:;<>\[\]\\.]+"
_EMAIL = re.compile(rf"{_WORD}(\.{_WORD})*@{_WORD}(\.{_WORD})+")
_MSISDN = re.compile(r"[1-9][0-9]{3,14}")


def canonical_email(text: str) -> str:
    """Return an e-mail address in canonical form: trimmed and case-folded.

    Raises: InvalidParam.
    """
    address = text.strip()
    if len(address) > MAX_ADDRESS_CHARS or not _EMAIL.fullmatch(address):
        raise InvalidParam("Invalid e-mail address")
    return address.casefold()


def canonical_msisdn(text: str) -> str:
    """Return a phone number in canonical form: the digits, beginning with the country code.

    Raises: InvalidParam.
    """
    digits = re.sub(r"[\s()./-]", "", text.strip()).removeprefix("+")
    if not _MSISDN.fullmatch(digits):
        raise InvalidParam("Invalid phone number: it must include the country code")
    return digits


def canonical_address(medium: str, text: str) -> str:
    """Return the canonical form of an address of either medium.

    Raises: InvalidParam.
    """
    if medium == EMAIL:
        return canonical_email(text)
    if medium == MSISDN:
        return canonical_msisdn(text)
    raise InvalidParam("The medium must be email or msisdn")


def check_client_secret(secret: str) -> None:
    """Check the form of a `client_secret`.

    Raises: InvalidParam.
    """
    if not _CLIENT_SECRET.fullmatch(secret):
        raise InvalidParam("client_secret must be 1 to 255 of the characters 0-9a-zA-Z.=_-")
