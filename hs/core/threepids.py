"""Third-party identifiers: e-mail addresses and telephone numbers, in the form that is compared.

Spec: appendices, 3PID Types.
"""

import re
from typing import Final

from hs.core.errors import InvalidParam

EMAIL: Final = "email"
MSISDN: Final = "msisdn"

MAX_ADDRESS_CHARS = 500
_SECRET = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
# Quoted local parts and address literals are left out: nobody has them but who tests servers.
_WORD = r"[^\s@\x00-\x1f\x7f\ud800-\udfff\"(),:;<>\[\]\\.]+"
_EMAIL = re.compile(rf"{_WORD}(\.{_WORD})*@{_WORD}(\.{_WORD})+")
_MSISDN = re.compile(r"[1-9][0-9]{3,14}")


def canonical_email(text: str) -> str:
    """Give an e-mail address as it is kept: without spaces around it, and in one case.

    Raises: InvalidParam.
    """
    address = text.strip()
    if len(address) > MAX_ADDRESS_CHARS or not _EMAIL.fullmatch(address):
        raise InvalidParam("This is not an e-mail address")
    return address.casefold()


def canonical_msisdn(text: str) -> str:
    """Give a telephone number as it is kept: the digits from the country's on.

    Raises: InvalidParam.
    """
    digits = re.sub(r"[\s()./-]", "", text.strip()).removeprefix("+")
    if not _MSISDN.fullmatch(digits):
        raise InvalidParam("This is not a telephone number with the code of its country")
    return digits


def canonical_address(medium: str, text: str) -> str:
    """Give an address as it is kept. Raises: InvalidParam."""
    if medium == EMAIL:
        return canonical_email(text)
    if medium == MSISDN:
        return canonical_msisdn(text)
    raise InvalidParam("The medium must be email or msisdn")


def check_client_secret(secret: str) -> None:
    """Refuse what is no client secret. Raises: InvalidParam."""
    if not _SECRET.fullmatch(secret):
        raise InvalidParam("client_secret has 1 to 255 of the characters 0-9a-zA-Z.=_-")
