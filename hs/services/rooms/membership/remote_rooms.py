"""What other servers do for our users in rooms: an interface, and the answer without federation."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hs.core.errors import MatrixError, NotFound
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID
from hs.services.rooms.append.drafts import Draft


class RemoteRooms(Protocol):
    """Asks other servers to let our users in and out, and to take invites."""

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Join a room through one of the servers. Raises: MatrixError, RemoteFault."""
        ...

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Knock on a room through one of the servers. Raises: MatrixError, RemoteFault."""
        ...

    async def leave(self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Reject an invite or take back a knock. Raises: MatrixError, RemoteFault."""
        ...

    async def invite(self, room_id: RoomID, draft: Draft) -> None:
        """Invite another server's user to a room of ours. Raises: MatrixError, RemoteFault."""
        ...

    def check_can_invite(self, user_id: UserID) -> None:
        """Refuse users whom no invite can reach. Raises: MatrixError."""
        ...

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Ask what another server's alias stands for. Raises: NotFound, RemoteFault."""
        ...


class NoRemoteRooms:
    """The RemoteRooms of a server that speaks to no other."""

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Refuse."""
        raise _unreachable("No server that is in this room can be reached")

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Refuse."""
        raise _unreachable("No server that is in this room can be reached")

    async def leave(self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Refuse."""
        raise _unreachable("No server that is in this room can be reached")

    async def invite(self, room_id: RoomID, draft: Draft) -> None:
        """Refuse."""
        raise _unreachable("Users of other servers cannot be invited")

    def check_can_invite(self, user_id: UserID) -> None:
        """Refuse."""
        raise _unreachable("Users of other servers cannot be invited")

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Refuse."""
        raise NotFound(f"Room alias {alias} not found.")


def _unreachable(message: str) -> MatrixError:
    return MatrixError("M_UNKNOWN", 404, message)
