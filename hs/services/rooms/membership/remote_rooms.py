"""The interface for joining, leaving and inviting through other servers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hs.core.errors import MatrixError, NotFound
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID
from hs.services.rooms.append.drafts import Draft


class RemoteRooms(Protocol):
    """Joins, leaves and invites through other servers."""

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> bool:
        """Join a room through one of the servers; return False if this server is in it by now.

        Then nothing was done, and the user can join as in any local room.
        Raises: MatrixError, RemoteFault.
        """
        ...

    async def allows_guests(
        self, user_id: UserID, room_id: RoomID, via: Sequence[ServerName]
    ) -> bool:
        """Return whether guests may join a room, according to one of the servers in it.

        Raises: MatrixError, RemoteFault, if no server responds.
        """
        ...

    async def join_authorised(
        self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> bool:
        """Join a restricted room that this server is in, authorised by a user of another server.

        Return False if no other server is in the room.
        Raises: MatrixError, RemoteFault.
        """
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
        """Reject an invite or retract a knock. Raises: MatrixError, RemoteFault."""
        ...

    async def invite(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a user of another server to a local room. Raises: MatrixError, RemoteFault."""
        ...

    async def invite_for(self, room_id: RoomID, draft: Draft) -> None:
        """Invite a local user for a user of another server, by their third-party invite.

        Raises: MatrixError.
        """
        ...

    def check_can_invite(self, user_id: UserID) -> None:
        """Raise MatrixError if invites cannot reach the user."""
        ...

    async def exchange_third_party_invite(
        self, server: ServerName, room_id: RoomID, event: Mapping[str, Any]
    ) -> None:
        """Ask the inviter's server for the invite that replaces a third-party invite.

        Raises: MatrixError, RemoteFault.
        """
        ...

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Resolve an alias of another server. Raises: NotFound, RemoteFault."""
        ...


class NoRemoteRooms:
    """The RemoteRooms of a server without federation."""

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> bool:
        """Raise MatrixError."""
        raise _unreachable("No server in this room can be reached")

    async def allows_guests(
        self, user_id: UserID, room_id: RoomID, via: Sequence[ServerName]
    ) -> bool:
        """Raise MatrixError."""
        raise _unreachable("No server in this room can be reached")

    async def join_authorised(
        self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]
    ) -> bool:
        """Return False."""
        return False

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        via: Sequence[ServerName],
        content: Mapping[str, Any],
    ) -> None:
        """Raise MatrixError."""
        raise _unreachable("No server in this room can be reached")

    async def leave(self, user_id: UserID, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Raise MatrixError."""
        raise _unreachable("No server in this room can be reached")

    async def invite(self, room_id: RoomID, draft: Draft) -> None:
        """Raise MatrixError."""
        raise _unreachable("Users of other servers cannot be invited")

    async def invite_for(self, room_id: RoomID, draft: Draft) -> None:
        """Raise MatrixError."""
        raise _unreachable("Users of other servers cannot invite")

    def check_can_invite(self, user_id: UserID) -> None:
        """Raise MatrixError."""
        raise _unreachable("Users of other servers cannot be invited")

    async def exchange_third_party_invite(
        self, server: ServerName, room_id: RoomID, event: Mapping[str, Any]
    ) -> None:
        """Raise MatrixError."""
        raise _unreachable("Other servers cannot be reached")

    async def find_alias(self, alias: RoomAlias) -> tuple[RoomID, Sequence[ServerName]]:
        """Raise NotFound."""
        raise NotFound(f"Room alias {alias} not found.")


def _unreachable(message: str) -> MatrixError:
    return MatrixError("M_UNKNOWN", 404, message)
