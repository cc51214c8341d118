"""How clients name an account as they log in: by its user ID, an e-mail address or a number.

Spec: client-server API, Identifier types.
"""

from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, MissingParam, Unknown
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.core.threepids import MSISDN, canonical_address, canonical_msisdn
from hs.lib.phone_numbers import international
from hs.services.accounts.threepids.threepids import Threepids


@attrs.frozen
class Named:
    """Whom a request means; `user_id` None: nobody has that address.

    `spelling` is the same for all ways to write one name, so that guesses count together.
    """

    user_id: UserID | None
    spelling: str


@attrs.frozen(eq=False)
class Identifiers:
    """Finds the account that a request names."""

    _server_name: ServerName
    _threepids: Threepids

    async def named_in(self, body: JsonObject) -> Named:
        """Read the user from `identifier`, or from the older `user`, or `medium` and `address`.

        Raises: MissingParam, BadJson, Unknown for other kinds of identifier, Forbidden for users
        of another server.
        """
        identifier = body.get("identifier")
        if identifier is None:
            if body.get("medium") is not None or body.get("address") is not None:
                return await self._by_address(body.get("medium"), body.get("address"))
            return self._by_id(body.get("user"))
        if not isinstance(identifier, dict):
            raise BadJson("'identifier' must be an object")
        kind = identifier.get("type")
        if kind is None:
            raise MissingParam("Missing identifier.type")
        if kind == "m.id.user":
            return self._by_id(identifier.get("user"))
        if kind == "m.id.thirdparty":
            return await self._by_address(identifier.get("medium"), identifier.get("address"))
        if kind == "m.id.phone":
            phone = identifier.get("phone", identifier.get("number"))
            return await self._by_phone(identifier.get("country"), phone)
        raise Unknown("This type of identifier is not known")

    def _by_id(self, name: Any) -> Named:
        user_id = full_user_id(name, self._server_name)
        # The name may be given in any case.
        return Named(user_id, user_id.lower())

    async def _by_address(self, medium: Any, text: Any) -> Named:
        medium, text = _text(medium, "medium"), _text(text, "address")
        return await self._owner(medium, _canonical(medium, text))

    async def _by_phone(self, country: Any, phone: Any) -> Named:
        country, phone = _text(country, "country"), _text(phone, "phone")
        return await self._owner(MSISDN, international(country, phone) or _canonical(MSISDN, phone))

    async def _owner(self, medium: str, address: str) -> Named:
        return Named(await self._threepids.owner(medium, address), f"{medium} {address}")


def _text(value: Any, name: str) -> str:
    if value is None:
        raise MissingParam(f"Missing {name}")
    if not isinstance(value, str) or "\0" in value:
        raise BadJson(f"{name!r} must be a string")
    return value


def _canonical(medium: str, text: str) -> str:
    try:
        return canonical_msisdn(text) if medium == MSISDN else canonical_address(medium, text)
    except InvalidParam as error:
        raise Forbidden("Nobody has this third-party identifier") from error


def full_user_id(name: Any, server_name: ServerName) -> UserID:
    """Read a user ID of this server, or a localpart.

    Raises: MissingParam, BadJson, Forbidden.
    """
    if name is None:
        raise MissingParam("Missing user")
    if not isinstance(name, str):
        raise BadJson("'user' must be a string")
    try:
        user_id = parse_user_id(name if name.startswith("@") else f"@{name}:{server_name}")
    except InvalidParam as error:
        raise Forbidden("Not a user of this server") from error
    if server_of(user_id) != server_name:
        raise Forbidden("Not a user of this server")
    return user_id
