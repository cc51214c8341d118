"""What accounts need to know of application services, and a server that has none."""

from typing import Protocol

from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.core.requester import Requester


class Appservices(Protocol):
    """The application services of this server."""

    def requester_of(self, token: str) -> Requester | None:
        """Give the requester that a service's token stands for."""
        ...

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Give the user a service speaks for. Raises: Forbidden, Exclusive."""
        ...

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        """Tell whether a service other than `but_for` has the user ID for itself."""
        ...

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        """Tell whether a user ID is in the namespaces of a service."""
        ...


class AbsentUsers(Protocol):
    """Has application services make users who are asked for and are not there."""

    async def make_user(self, user_id: UserID) -> bool:
        """Tell whether a user who was not there may be there now."""
        ...


class NoAppservices:
    """The answers of a server without application services."""

    def requester_of(self, token: str) -> Requester | None:
        return None

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        raise Forbidden("Only application services speak for other users")

    def reserves(self, user_id: UserID, but_for: str | None) -> bool:
        return False

    def owns(self, appservice_id: str, user_id: UserID) -> bool:
        return False

    async def make_user(self, user_id: UserID) -> bool:
        return False
