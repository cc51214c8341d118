"""Registration by administrators who know the configured shared secret."""

import hashlib
import hmac

import attrs

from hs.core.errors import Forbidden, Unknown
from hs.lib.clock import Clock
from hs.services.accounts.sessions.token_format import random_letters
from hs.storage.accounts import users
from hs.storage.database import Database

NONCE_LIFETIME_MS = 60_000


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
    """Registration with the shared secret; each nonce is valid once."""

    _database: Database
    _clock: Clock
    _secret: str | None

    async def new_nonce(self) -> str:
        """Return a new nonce. Raises: Unknown if no secret is configured."""
        self._require_secret()
        nonce = random_letters(64)
        now_ms = self._clock.now_ms()
        await self._database.write(users.insert_nonce, nonce, now_ms, now_ms + NONCE_LIFETIME_MS)
        return nonce

    async def check(self, request: SharedSecretRequest) -> None:
        """Check the HMAC of a request and use up its nonce.

        Raises: Unknown if the nonce is not valid; Forbidden if the HMAC is wrong.
        """
        secret = self._require_secret()
        if not await self._database.write(users.consume_nonce, request.nonce, self._clock.now_ms()):
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

    def _require_secret(self) -> str:
        if not self._secret:
            raise Unknown("Registration with a shared secret is not enabled")
        return self._secret
