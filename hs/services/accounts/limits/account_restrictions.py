"""Account restrictions: what suspended, locked and unconsenting users may not do.

Suspended users, and users who have not agreed to the terms, can only read. Locked users have no
access and get no new tokens.

Spec: client-server API, Account suspension; Account locking; Soft logout.
"""

from hs.core.errors import ConsentNotGiven, UserLocked, UserSuspended
from hs.core.requester import Requester


def may_act(requester: Requester) -> bool:
    """Return whether a requester may perform actions that other users can see."""
    return not requester.suspended and requester.required_consent is None


def check_may_act(requester: Requester) -> None:
    """Reject actions that other users can see: joining, inviting, sending, profile changes.

    Raises: UserSuspended, ConsentNotGiven.
    """
    _check_not_suspended(requester)
    consent = requester.required_consent
    if consent is not None:
        raise ConsentNotGiven(consent.message, consent_uri=consent.uri)


def check_may_signal(requester: Requester) -> None:
    """Reject what a suspended user shows or sends to others apart from events.

    That is typing, public receipts, status messages and to-device messages. Users who have not
    agreed to the terms may do it: clients do it unasked, and would show the terms for it.

    Raises: UserSuspended.
    """
    _check_not_suspended(requester)


def check_may_remove_threepids(requester: Requester) -> None:
    """Reject the removal of third-party identifiers from the account of a suspended user.

    The administrator may need them to contact the user.

    Raises: UserSuspended.
    """
    _check_not_suspended(requester)


def _check_not_suspended(requester: Requester) -> None:
    if requester.suspended:
        raise UserSuspended("You cannot perform this action while suspended.")


def check_may_get_tokens(*, is_locked: bool) -> None:
    """Reject logins and token refreshes of a locked account. Raises: UserLocked."""
    if is_locked:
        raise UserLocked("This account is locked", soft_logout=True)
