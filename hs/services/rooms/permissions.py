"""What accounts in bad standing may not do, whatever the rooms' rules say."""

from hs.core.errors import UserSuspended
from hs.core.requester import Requester


def check_not_suspended(requester: Requester) -> None:
    """Refuse a suspended user's request. Raises: UserSuspended.

    Spec: client-server API, Account suspension.
    """
    if requester.suspended:
        raise UserSuspended("Your account is suspended")
