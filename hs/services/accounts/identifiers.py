"""How clients name an account as they log in.

Spec: client-server API, Identifier types.
"""

from typing import Any

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidParam, MissingParam, Unknown
from hs.core.ids import ServerName, UserID, parse_user_id, server_of


def user_named_in(body: JsonObject, server_name: ServerName) -> UserID:
    """Read the user from `identifier`, or from the older `user`.

    Raises: MissingParam, BadJson, Unknown for other kinds of identifier, Forbidden for users of
    another server.
    """
    identifier = body.get("identifier")
    if identifier is None:
        if body.get("medium") is not None or body.get("address") is not None:
            raise Forbidden("Nobody has this third-party identifier")
        return full_user_id(body.get("user"), server_name)
    if not isinstance(identifier, dict):
        raise BadJson("'identifier' must be an object")
    kind = identifier.get("type")
    if kind is None:
        raise MissingParam("Missing identifier.type")
    if kind == "m.id.user":
        return full_user_id(identifier.get("user"), server_name)
    if kind in ("m.id.thirdparty", "m.id.phone"):
        raise Forbidden("Nobody has this third-party identifier")
    raise Unknown("This type of identifier is not known")


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
