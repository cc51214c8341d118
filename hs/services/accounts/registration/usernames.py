"""Rules for the usernames of new accounts."""

from hs.core.errors import Exclusive, InvalidUsername
from hs.core.ids import MAX_ID_BYTES, ServerName, UserID, is_strict_localpart
from hs.services.accounts.limits.appservice_users import Appservices


def check_localpart(localpart: str, server_name: ServerName) -> UserID:
    """Return the user ID with this localpart, if it is valid for a new account.

    Raises: InvalidUsername.
    """
    if not localpart:
        raise InvalidUsername("The username must not be empty")
    if not is_strict_localpart(localpart):
        raise InvalidUsername("The username may contain only the characters a-z 0-9 . _ = / + -")
    user_id = UserID(f"@{localpart}:{server_name}")
    if len(user_id) > MAX_ID_BYTES:
        raise InvalidUsername(f"The user ID must not be longer than {MAX_ID_BYTES} characters")
    return user_id


def check_choosable(user_id: UserID, allow_underscore: bool, appservices: Appservices) -> None:
    """Reject usernames that users may not choose for themselves.

    Raises: InvalidUsername, Exclusive.
    """
    if appservices.reserves(user_id, None):
        raise Exclusive("This user ID is reserved by an application service")
    localpart = user_id[1 : user_id.index(":")]
    if localpart.startswith("_") and not allow_underscore:
        raise InvalidUsername("The username must not begin with _")
    if localpart.isdigit():
        raise InvalidUsername("Usernames of digits only are reserved for guests")
