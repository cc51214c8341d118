"""The presence writers of all processes that share out the users, as if they were one.

Each writer computes the presence of its own users, from all their devices. A process reports a
device to the writer of its user, and sends keepalives to every process that owns users: a writer
that has not heard of a process for a while no longer counts its devices.
"""

from collections.abc import Callable

import attrs

from hs.core.errors import MatrixError
from hs.core.ids import UserID
from hs.core.streams import PresenceRow
from hs.repl.calls.owner_groups import call_owners
from hs.repl.sharding import OwnerCalls
from hs.services.ephemeral.presence_writer import DeviceEdge, PresenceWriter


@attrs.frozen(eq=False)
class ShardedPresence:
    """A PresenceWriter that passes on to the processes that own the users of a call.

    `writer_of` returns the writer in a process, or a proxy of it.
    """

    writer_of: Callable[[str], PresenceWriter]
    _owners: OwnerCalls

    async def set_presence(
        self, user_id: UserID, device_id: str, state: str, status_msg: str | None
    ) -> None:
        """Set a user's state and status message, on behalf of a device."""
        await self._owners.call(
            lambda: self._owners.owner(user_id),
            lambda owner: self.writer_of(owner).set_presence(user_id, device_id, state, status_msg),
        )

    async def current(self, user_id: UserID) -> PresenceRow | None:
        """Return a user's presence, which other processes may not have received yet."""
        return await self._owners.call(
            lambda: self._owners.owner(user_id),
            lambda owner: self.writer_of(owner).current(user_id),
        )

    async def note_edges(self, instance: str, epoch: int, edges: list[DeviceEdge]) -> None:
        """Report devices that began or stopped syncing with a process.

        If a writer fails, the caller repeats the report to all of them, which changes nothing.
        """
        await self._owners.call_all(
            edges,
            lambda edge: edge.user_id,
            lambda owner, own: self.writer_of(owner).note_edges(instance, epoch, own),
        )

    async def note_active(self, user_ids: list[UserID]) -> None:
        """Record that users are active now."""
        await self._owners.call_all(
            user_ids, str, lambda owner, own: self.writer_of(owner).note_active(own)
        )

    async def set_remote(self, rows: list[PresenceRow]) -> None:
        """Publish the presence of users of other servers."""
        await self._owners.call_all(
            rows,
            lambda row: row.user_id,
            lambda owner, own: self.writer_of(owner).set_remote(own),
        )

    async def keep(self, instance: str, epoch: int) -> bool:
        """Send a keepalive to all owners; return False if any of them needs all devices again.

        Raises: what the call to an owner raised, if no other one needs the devices.
        """
        known: list[bool] = []
        errors: list[Exception] = []

        async def keep(owner: str, _: None) -> None:
            try:
                known.append(await self.writer_of(owner).keep(instance, epoch))
            except MatrixError as error:
                errors.append(error)

        holders = set(self._owners.slots.holders(self._owners.stream))
        await call_owners(dict.fromkeys(holders), keep)
        if errors and all(known):
            raise errors[0]
        return all(known)
