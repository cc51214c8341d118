"""The gate through which responses of sync are computed."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from hs.core.ids import UserID


class SyncGate(Protocol):
    """Limits how many responses are computed at a time, in all and for one user."""

    def of_user(self, user_id: UserID) -> AbstractAsyncContextManager[None]:
        """Return a context manager that waits for a slot and holds it.

        Raises on entry: LimitExceeded.
        """
        ...


class OpenGate:
    """A gate without limits."""

    def of_user(self, user_id: UserID) -> AbstractAsyncContextManager[None]:
        """Return a context manager that does nothing."""
        return nullcontext()
