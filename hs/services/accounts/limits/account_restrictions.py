"""Who may act: users who are suspended, or have not agreed to the terms, only read.

Who is locked does nothing, and gets no new tokens either.

Spec: client-server API, Account suspension; Account locking; Soft logout.
"""

from hs.core.errors import ConsentNotGiven, UserLocked, UserSuspended
from hs.core.requester import Requester


def may_act(requester: Requester) -> bool:
    """Tell whether a requester may do what others see."""
    return not requester.suspended and requester.consent_due is None


def check_may_act(requester: Requester) -> None:
    """Refuse what others see: joining, inviting, sending, changing one's profile.

    Raises: UserSuspended, ConsentNotGiven.
    """
    if requester.suspended:
        raise UserSuspended("You cannot perform this action while suspended.")
    due = requester.consent_due
    if due is not None:
        raise ConsentNotGiven(due.message, consent_uri=due.uri)


def check_may_forget_contacts(requester: Requester) -> None:
    """Refuse to take addresses off an account by which its suspended user can be reached.

    Raises: UserSuspended.
    """
    if requester.suspended:
        raise UserSuspended("You cannot perform this action while suspended.")


def check_may_get_tokens(*, is_locked: bool) -> None:
    """Refuse to log in, or refresh a token of, whose account is locked. Raises: UserLocked."""
    if is_locked:
        raise UserLocked("This account is locked", soft_logout=True)
