"""The format of tokens, and the hashes that are stored of them.

Access tokens have the form `syt_<localpart in base64>_<random>_<checksum>`, so that scanners for
leaked secrets recognise them.
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
    """Return random letters from a secure source."""
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def new_access_token(user_id: UserID) -> str:
    """Return a new access token."""
    return _with_checksum(f"syt_{_encoded_localpart(user_id)}_{random_letters(20)}")


def new_refresh_token(user_id: UserID) -> str:
    """Return a new refresh token."""
    return _with_checksum(f"syr_{_encoded_localpart(user_id)}_{random_letters(20)}")


def new_login_token(user_id: UserID) -> str:
    """Return a new login token."""
    return _with_checksum(f"syl_{_encoded_localpart(user_id)}_{random_letters(20)}")


def new_device_id() -> str:
    """Return a new device ID."""
    return "".join(secrets.choice(_DEVICE_LETTERS) for _ in range(10))


def hash_of(token: str) -> str:
    """Return the hash under which a token is stored. Tokens are random: a fast hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _encoded_localpart(user_id: UserID) -> str:
    return encode_base64(localpart_of(user_id).encode())


def _with_checksum(text: str) -> str:
    return f"{text}_{_base62(zlib.crc32(text.encode()))}"


def _base62(number: int) -> str:
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
