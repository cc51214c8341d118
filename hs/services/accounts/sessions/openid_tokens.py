"""OpenID tokens, with which users prove their identity to other services.

Spec: client-server API, OpenID; server-server API, OpenID.
"""

import attrs

from hs.core.errors import UnknownToken
from hs.core.ids import ServerName, UserID
from hs.lib.clock import Clock
from hs.services.accounts.sessions.token_format import hash_of, random_letters
from hs.storage.accounts import tokens
from hs.storage.database import Database

LIFETIME_MS = 3_600_000


@attrs.frozen
class OpenIdToken:
    """The response to a request for an OpenID token; `expires_in` in seconds."""

    access_token: str
    matrix_server_name: ServerName
    expires_in: int
    token_type: str = "Bearer"


@attrs.define(eq=False)
class OpenIdTokens:
    """The store of OpenID tokens."""

    _database: Database
    _clock: Clock
    _server_name: ServerName

    async def make_token(self, user_id: UserID) -> OpenIdToken:
        """Create a token for a user."""
        token = random_letters(32)
        now_ms = self._clock.now_ms()
        await self._database.write(
            tokens.insert_openid, hash_of(token), user_id, now_ms, now_ms + LIFETIME_MS
        )
        return OpenIdToken(token, self._server_name, LIFETIME_MS // 1000)

    async def user_of(self, token: str) -> UserID:
        """Return the user of a token. Raises: UnknownToken."""
        user_id = await self._database.read(
            tokens.find_openid, hash_of(token), self._clock.now_ms()
        )
        if user_id is None:
            raise UnknownToken("The OpenID token is unknown or has expired")
        return UserID(user_id)
