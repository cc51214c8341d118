"""The texts of tokens: how they are made, and what of them is stored.

Access tokens read `syt_<localpart in base64>_<random>_<checksum>`, so that tools which look for
leaked secrets can recognise them.
"""

import hashlib
import secrets
import string
import zlib

from hs.core.ids import UserID, localpart_of
from hs.core.unpadded_base64 import encode_base64

_LETTERS = string.ascii_letters
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_DEVICE_LETTERS = string.ascii_uppercase


def random_letters(count: int) -> str:
    """Make a text that nobody guesses, if it is long enough."""
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def new_access_token(user_id: UserID) -> str:
    """Make an access token."""
    return _checked(f"syt_{_name(user_id)}_{random_letters(20)}")


def new_refresh_token(user_id: UserID) -> str:
    """Make a refresh token."""
    return _checked(f"syr_{_name(user_id)}_{random_letters(20)}")


def new_login_token(user_id: UserID) -> str:
    """Make a token to log in with."""
    return _checked(f"syl_{_name(user_id)}_{random_letters(20)}")


def new_device_id() -> str:
    """Make the ID of a device."""
    return "".join(secrets.choice(_DEVICE_LETTERS) for _ in range(10))


def hash_of(token: str) -> str:
    """Give what is stored of a token. It is random, so it needs no slow hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _name(user_id: UserID) -> str:
    return encode_base64(localpart_of(user_id).encode())


def _checked(text: str) -> str:
    return f"{text}_{_base62(zlib.crc32(text.encode()))}"


def _base62(number: int) -> str:
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
