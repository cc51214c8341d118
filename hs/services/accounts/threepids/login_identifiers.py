"""Login identifiers: user ID, e-mail address or phone number.

Spec: client-server API, Identifier types.
"""

from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, MissingParam, Unknown
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.core.threepids import MSISDN, canonical_address, canonical_msisdn
from hs.lib.phone_numbers import international_digits
from hs.services.accounts.threepids.threepids import Threepids


@attrs.frozen
class IdentifiedUser:
    """The user that a login identifier refers to; None if no account has the identifier.

    `spelling` is the same for all spellings of an identifier, so that failed attempts are counted
    together.
    """

    user_id: UserID | None
    spelling: str


@attrs.frozen(eq=False)
class LoginIdentifiers:
    """The resolution of login identifiers to users."""

    _server_name: ServerName
    _threepids: Threepids

    async def resolve(self, body: JsonObject) -> IdentifiedUser:
        """Resolve `identifier`, or the deprecated `user`, or `medium` and `address`.

        Raises: MissingParam, BadJson, Unknown for other identifier types, Forbidden for users of
        other servers.
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
        raise Unknown("Unknown identifier type")

    def _by_id(self, name: Any) -> IdentifiedUser:
        user_id = full_user_id(name, self._server_name)
        # Usernames are matched ignoring case.
        return IdentifiedUser(user_id, user_id.lower())

    async def _by_address(self, medium: Any, address: Any) -> IdentifiedUser:
        medium, address = _required_string(medium, "medium"), _required_string(address, "address")
        return await self._resolve_threepid(medium, _canonical(medium, address))

    async def _by_phone(self, country: Any, phone: Any) -> IdentifiedUser:
        country, phone = _required_string(country, "country"), _required_string(phone, "phone")
        return await self._resolve_threepid(
            MSISDN, international_digits(country, phone) or _canonical(MSISDN, phone)
        )

    async def _resolve_threepid(self, medium: str, address: str) -> IdentifiedUser:
        return IdentifiedUser(await self._threepids.owner(medium, address), f"{medium} {address}")


def _required_string(value: Any, name: str) -> str:
    if value is None:
        raise MissingParam(f"Missing {name}")
    if not isinstance(value, str) or "\0" in value:
        raise BadJson(f"{name!r} must be a string")
    return value


def _canonical(medium: str, address: str) -> str:
    try:
        return canonical_msisdn(address) if medium == MSISDN else canonical_address(medium, address)
    except InvalidParam as error:
        raise Forbidden("No account has this third-party identifier") from error


def full_user_id(name: Any, server_name: ServerName) -> UserID:
    """Parse a user ID of this server, or a localpart.

    Raises: MissingParam, BadJson, Forbidden.
    """
    if name is None:
        raise MissingParam("Missing user")
    if not isinstance(name, str):
        raise BadJson("'user' must be a string")
    try:
        user_id = parse_user_id(name if name.startswith("@") else f"@{name}:{server_name}")
    except InvalidParam as error:
        raise Forbidden("The user is not a user of this server") from error
    if server_of(user_id) != server_name:
        raise Forbidden("The user is not a user of this server")
    return user_id
