"""Registration by administrators who know the configured shared secret.

Anybody may ask for a nonce, so nothing is stored for it: a nonce is its expiry and random letters,
signed with a key that all processes have. Only a nonce that was used, by somebody who knows the
secret, is stored until it expires, so that it cannot be used again.
"""

import hashlib
import hmac
import re

import attrs

from hs.core.errors import Forbidden, Unknown
from hs.lib.clock import Clock
from hs.services.accounts.sessions.token_format import random_letters
from hs.storage.accounts import users
from hs.storage.database import Database

NONCE_LIFETIME_MS = 60_000

_NONCE = re.compile(r"(([0-9a-f]{12})[a-zA-Z]{32})([0-9a-f]{64})")


@attrs.frozen(kw_only=True)
class SharedSecretRequest:
    """A request for an account, with the HMAC that proves knowledge of the secret."""

    nonce: str
    username: str
    password: str
    is_admin: bool
    user_type: str | None
    mac: str


@attrs.define(eq=False)
class SharedSecretRegistration:
    """Registration with the shared secret; each nonce is valid once, in all processes."""

    _database: Database
    _clock: Clock
    _secret: str | None
    _nonce_key: bytes

    def new_nonce(self) -> str:
        """Return a new nonce. Raises: Unknown if no secret is configured."""
        self._require_secret()
        text = f"{self._clock.now_ms() + NONCE_LIFETIME_MS:012x}{random_letters(32)}"
        return text + self._signature(text)

    async def check(self, request: SharedSecretRequest) -> None:
        """Check the HMAC of a request and use up its nonce.

        Raises: Unknown if the nonce is not valid; Forbidden if the HMAC is wrong.
        """
        secret = self._require_secret()
        expires_ms = self._expiry_of(request.nonce)
        now_ms = self._clock.now_ms()
        if expires_ms <= now_ms:
            raise Unknown("The nonce is unknown or has expired")
        parts = [
            request.nonce,
            request.username,
            request.password,
            "admin" if request.is_admin else "notadmin",
        ]
        if request.user_type:
            parts.append(request.user_type)
        expected = hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        if not hmac.compare_digest(expected.encode(), request.mac.encode()):
            raise Forbidden("The HMAC is incorrect")
        if not await self._database.write(users.use_nonce, request.nonce, now_ms, expires_ms):
            raise Unknown("The nonce was used before")

    def _expiry_of(self, nonce: str) -> int:
        """Return when a nonce expires; 0 if it is not one of ours."""
        match = _NONCE.fullmatch(nonce)
        if match is None or not hmac.compare_digest(self._signature(match[1]), match[3]):
            return 0
        return int(match[2], 16)

    def _signature(self, text: str) -> str:
        return hmac.new(self._nonce_key, text.encode(), hashlib.sha256).hexdigest()

    def _require_secret(self) -> str:
        if not self._secret:
            raise Unknown("Registration with a shared secret is not enabled")
        return self._secret
