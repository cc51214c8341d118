"""Registration by whoever knows the secret of the configuration."""

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
class SignedWish:
    """An account somebody wants, and the proof that they know the secret."""

    nonce: str
    username: str
    password: str
    is_admin: bool
    user_type: str | None
    mac: str


@attrs.define(eq=False)
class SharedSecret:
    """Gives out nonces and checks proofs; each nonce serves once."""

    _database: Database
    _clock: Clock
    _secret: str | None

    async def new_nonce(self) -> str:
        """Make a nonce. Raises: Unknown, when there is no secret."""
        self._known_secret()
        nonce = random_letters(64)
        now_ms = self._clock.now_ms()
        await self._database.write(users.insert_nonce, nonce, now_ms, now_ms + NONCE_LIFETIME_MS)
        return nonce

    async def check(self, wish: SignedWish) -> None:
        """Check a proof, which uses the nonce up.

        Raises: Unknown, for a nonce that is not known any more; Forbidden.
        """
        secret = self._known_secret()
        if not await self._database.write(users.use_nonce, wish.nonce, self._clock.now_ms()):
            raise Unknown("The nonce is not known")
        parts = [wish.nonce, wish.username, wish.password, "admin" if wish.is_admin else "notadmin"]
        if wish.user_type:
            parts.append(wish.user_type)
        right = hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        if not hmac.compare_digest(right.encode(), wish.mac.encode()):
            raise Forbidden("The HMAC is not right")

    def _known_secret(self) -> str:
        if not self._secret:
            raise Unknown("Registration with a shared secret is not enabled")
        return self._secret
