"""Logging in with a JSON web token of another service, which makes the account at first."""

import logging

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidUsername, MissingParam, UserInUse
from hs.core.ids import ServerName, UserID
from hs.lib.json_web_tokens import InvalidToken, TokenReader
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.usernames import check_localpart

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class JwtLogin:
    """Turns a token into a user."""

    _reader: TokenReader
    _registration: Registration
    _server_name: ServerName
    _subject_claim: str
    _display_name_claim: str | None

    async def user_in(self, body: JsonObject) -> UserID:
        """Give the user whom the token in a request names; a new one gets an account.

        Raises: Forbidden, MissingParam, BadJson.
        """
        token = body.get("token")
        if token is None:
            raise MissingParam("Missing token")
        if not isinstance(token, str):
            raise BadJson("'token' must be a string")
        try:
            claims = self._reader.claims(token)
        except InvalidToken as error:
            raise Forbidden(f"The token is not valid: {error}") from error
        subject = claims.get(self._subject_claim)
        if not isinstance(subject, str):
            raise Forbidden("The token names no user")
        try:
            user_id = check_localpart(subject.lower(), self._server_name)
        except InvalidUsername as error:
            raise Forbidden("The token names somebody who cannot be a user here") from error
        if not await self._registration.is_taken(user_id):
            name = claims.get(self._display_name_claim) if self._display_name_claim else None
            account = NewAccount(
                user_id=user_id, display_name=name if isinstance(name, str) else None
            )
            try:
                await self._registration.register(account)
            except UserInUse:
                log.info("%s was made by another log-in meanwhile", user_id)
        return user_id
