"""Who may act: users who are suspended, or have not agreed to the terms, only read.

Spec: client-server API, Account suspension.
"""

from hs.core.errors import ConsentNotGiven, UserSuspended
from hs.core.requester import Requester


def check_may_act(requester: Requester) -> None:
    """Refuse what others see: joining, inviting, sending, changing one's profile.

    Raises: UserSuspended, ConsentNotGiven.
    """
    if requester.suspended:
        raise UserSuspended("You cannot perform this action while suspended.")
    due = requester.consent_due
    if due is not None:
        raise ConsentNotGiven(due.message, consent_uri=due.uri)


def check_not_suspended(requester: Requester) -> None:
    """Refuse suspended users alone. Raises: UserSuspended."""
    if requester.suspended:
        raise UserSuspended("You cannot perform this action while suspended.")
