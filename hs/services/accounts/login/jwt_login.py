"""Login with a JSON web token of an external issuer; the first login creates the account."""

import logging

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidUsername, MissingParam, UserInUse
from hs.core.ids import ServerName, UserID
from hs.lib.json_web_tokens import InvalidJwt, JwtVerifier
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.usernames import check_localpart
from hs.services.accounts.sessions.server_blocking import check_is_open

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class JwtLogin:
    """The login type `org.matrix.login.jwt`."""

    _reader: JwtVerifier
    _registration: Registration
    _server_name: ServerName
    _subject_claim: str
    _display_name_claim: str | None

    async def user_for(self, body: JsonObject) -> UserID:
        """Return the user that the token in a request names; create the account if needed.

        Raises: Forbidden, MissingParam, BadJson, ResourceLimitExceeded.
        """
        token = body.get("token")
        if token is None:
            raise MissingParam("Missing token")
        if not isinstance(token, str):
            raise BadJson("'token' must be a string")
        try:
            claims = self._reader.claims(token)
        except InvalidJwt as error:
            raise Forbidden(f"The token is invalid: {error}") from error
        subject = claims.get(self._subject_claim)
        if not isinstance(subject, str):
            raise Forbidden("The token lacks the claim with the user's localpart")
        try:
            user_id = check_localpart(subject.lower(), self._server_name)
        except InvalidUsername as error:
            raise Forbidden("The localpart in the token is not a valid username") from error
        if not await self._registration.is_taken(user_id):
            check_is_open(self._registration.requirements.blocking, is_admin=False)
            name = claims.get(self._display_name_claim) if self._display_name_claim else None
            account = NewAccount(
                user_id=user_id, display_name=name if isinstance(name, str) else None
            )
            try:
                await self._registration.register(account)
            except UserInUse:
                log.info("account %s was created by a concurrent login", user_id)
        return user_id
