"""The users that a server may speak for."""

from hs.core.errors import Forbidden
from hs.core.ids import ServerName, UserID, parse_user_id, server_of


def own_user(origin: ServerName, value: object) -> UserID:
    """Return a user ID that belongs to the server. Raises: InvalidParam, Forbidden."""
    user_id = parse_user_id(value)
    if server_of(user_id) != origin:
        raise Forbidden(f"{user_id} is not a user of {origin}")
    return user_id
