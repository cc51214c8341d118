"""Which names new users may have."""

from hs.core.errors import Exclusive, InvalidUsername
from hs.core.ids import MAX_ID_BYTES, ServerName, UserID, is_strict_localpart
from hs.services.accounts.limits.appservice_users import Appservices


def check_localpart(localpart: str, server_name: ServerName) -> UserID:
    """Give the user ID with this localpart, if it is one a new user may have.

    Raises: InvalidUsername.
    """
    if not localpart:
        raise InvalidUsername("A user name cannot be empty")
    if not is_strict_localpart(localpart):
        raise InvalidUsername("A user name has only the characters a-z, 0-9 and . _ = / + -")
    user_id = UserID(f"@{localpart}:{server_name}")
    if len(user_id) > MAX_ID_BYTES:
        raise InvalidUsername(f"A user ID is no longer than {MAX_ID_BYTES} characters")
    return user_id


def check_chosen(user_id: UserID, allow_underscore: bool, appservices: Appservices) -> None:
    """Refuse names that people may not choose for themselves.

    Raises: InvalidUsername, Exclusive.
    """
    if appservices.reserves(user_id, None):
        raise Exclusive("This user ID belongs to an application service")
    localpart = user_id[1 : user_id.index(":")]
    if localpart.startswith("_") and not allow_underscore:
        raise InvalidUsername("A user name may not begin with _")
    if localpart.isdigit():
        raise InvalidUsername("User names of digits alone are kept for guests")
