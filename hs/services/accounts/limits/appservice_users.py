"""The interface of accounts to application services, and its implementation without any."""

from typing import Protocol

from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.core.requester import Requester


class Appservices(Protocol):
    """The application services of this server."""

    def requester_of(self, token: str) -> Requester | None:
        """Return the requester for an application service's token, or None for other tokens."""
        ...

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Return the requester that an application service acts as (identity assertion).

        Raises: Forbidden, Exclusive.
        """
        ...

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        """Return whether a service other than `but_for` reserves the user ID exclusively."""
        ...

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Return whether a user ID is in the namespaces of an application service."""
        ...


class UserQueries(Protocol):
    """Queries application services for unknown users, which they may then create."""

    async def query_user(self, user_id: UserID) -> bool:
        """Query the services for an unknown user; return whether the user may exist now."""
        ...


class NoAppservices:
    """The implementation for a server without application services."""

    def requester_of(self, token: str) -> Requester | None:
        return None

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        raise Forbidden("Only application services may act as other users")

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        return False

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        return False

    async def query_user(self, user_id: UserID) -> bool:
        return False
