"""The presence writers of all processes that share out the users, as if they were one.

Each writer computes the presence of its own users, from all their devices. A process reports a
device to the writer of its user, and sends keepalives to every writer: a writer that has not heard
of a process for a while no longer counts its devices.
"""

from collections.abc import Callable, Sequence

import attrs

from hs.core.ids import UserID
from hs.core.streams import PresenceRow
from hs.repl.calls.owner_groups import OwnerOf, by_owner, call_owners
from hs.services.ephemeral.presence_writer import DeviceEdge, PresenceWriter


def sharded_presence(
    names: Sequence[str], writer_of: Callable[[str], PresenceWriter], owner_of: OwnerOf
) -> PresenceWriter:
    """Return the writers of these processes as one."""
    return writer_of(names[0]) if len(names) == 1 else ShardedPresence(names, writer_of, owner_of)


@attrs.frozen(eq=False)
class ShardedPresence:
    """A PresenceWriter that passes on to the writers by the users that a call is about.

    `writer_of` returns the writer in a process, or a proxy of it.
    """

    _names: Sequence[str]
    writer_of: Callable[[str], PresenceWriter]
    _owner_of: OwnerOf

    async def set_presence(
        self, user_id: UserID, device_id: str, state: str, status_msg: str | None
    ) -> None:
        """Set a user's state and status message, on behalf of a device."""
        await self._writer_of(user_id).set_presence(user_id, device_id, state, status_msg)

    async def current(self, user_id: UserID) -> PresenceRow | None:
        """Return a user's presence, which other processes may not have received yet."""
        return await self._writer_of(user_id).current(user_id)

    async def note_edges(self, instance: str, epoch: int, edges: list[DeviceEdge]) -> None:
        """Report devices that began or stopped syncing with a process.

        If a writer fails, the caller repeats the report to all of them, which changes nothing.
        """

        async def report(owner: str, own_edges: list[DeviceEdge]) -> None:
            await self.writer_of(owner).note_edges(instance, epoch, own_edges)

        groups = by_owner(edges, lambda edge: edge.user_id, self._owner_of)
        await call_owners(groups, report)

    async def note_active(self, user_ids: list[UserID]) -> None:
        """Record that users are active now."""

        async def report(owner: str, own_users: list[UserID]) -> None:
            await self.writer_of(owner).note_active(own_users)

        await call_owners(by_owner(user_ids, str, self._owner_of), report)

    async def set_remote(self, rows: list[PresenceRow]) -> None:
        """Publish the presence of users of other servers."""

        async def publish(owner: str, own_rows: list[PresenceRow]) -> None:
            await self.writer_of(owner).set_remote(own_rows)

        await call_owners(by_owner(rows, lambda row: row.user_id, self._owner_of), publish)

    async def keep(self, instance: str, epoch: int) -> bool:
        """Send a keepalive to all writers; return False if any of them needs all devices again."""

        async def keep(owner: str, _: None) -> bool:
            return await self.writer_of(owner).keep(instance, epoch)

        return all((await call_owners(dict.fromkeys(self._names), keep)).values())

    def _writer_of(self, user_id: UserID) -> PresenceWriter:
        return self.writer_of(self._owner_of(user_id))
