"""Device list changes for /sync and /keys/changes: `changed` and `left` between two positions.

A user sees the changes of users in shared rooms. Users with whom the first room has been shared
since then count as changed, users with whom no room is shared any more as left, also if they came
and went since then. Users who were invited count as changed, because clients encrypt messages for
them as well, and were not told of changes before. A user who signs the keys of another user sees
those as changed, because only the signer sees the signature.

Rules:

- Each process keeps the latest changes of users, and the latest signatures on (signer, target)
  pairs, from the feed. Requests from before what it keeps read the database, by the position of the
  slowest writer: they may report changes of faster writers again.
- Only the latest change of a user is known. If it is after `now`, the user is reported although the
  change belongs to the next response, which reports it again. Nothing is missed.
- Memberships are those of the moment of the request, not of `now`: a user may be reported early,
  and again in the next response.

Spec: client-server API, End-to-End Encryption, Tracking the device list for a user.
"""

from typing import Final, NamedTuple

from hs.core.ids import UserID
from hs.core.streams import DEVICE_LISTS, EVENTS, DeviceListRow
from hs.core.tokens import SyncToken
from hs.repl.feed import Feed
from hs.repl.recent_keys import RecentKeys
from hs.services.devices.remote_devices import SharedRoomChanges, SharedRoomUsers
from hs.storage.database import Database, Tx
from hs.storage.devices import device_lists

MAX_USERS: Final = 50_000
CATCH_UP_S: Final = 5.0


class DeviceListChanges(NamedTuple):
    """Users whose keys clients must query again, and users whose device lists they can drop."""

    changed: list[UserID]
    left: list[UserID]


NO_CHANGES: Final = DeviceListChanges([], [])
_NO_SHARING_CHANGES: Final = SharedRoomChanges()


class DeviceLists:
    """The device list changes that a user can see."""

    def __init__(self, database: Database, feed: Feed, shared_rooms: SharedRoomUsers) -> None:
        self._database = database
        self._feed = feed
        self._shared_rooms = shared_rooms
        self._changes: RecentKeys[UserID, DeviceListRow] = RecentKeys(
            feed, DEVICE_LISTS, _changed_users, MAX_USERS
        )
        self._signatures: RecentKeys[tuple[UserID, UserID], DeviceListRow] = RecentKeys(
            feed, DEVICE_LISTS, _signed_pairs, MAX_USERS
        )

    async def between(self, user_id: UserID, since: str, to: str) -> DeviceListChanges:
        """Return the changes between two tokens of /sync. Raises: InvalidParam."""
        earlier, later = SyncToken.parse(since), SyncToken.parse(to)
        await self._feed.wait_for_position(DEVICE_LISTS, later.device_lists, CATCH_UP_S)
        await self._feed.wait_for_position(EVENTS, later.events, CATCH_UP_S)
        return await self.changes(user_id, earlier, later)

    async def changes(self, user_id: UserID, since: SyncToken, now: SyncToken) -> DeviceListChanges:
        """Return the changes since a position.

        The result may include changes of memberships after `now`, which are then repeated later.
        """
        changed_users, signed = await self._changed_and_signed(user_id, since, now)
        if since.events is now.events:
            sharing = _NO_SHARING_CHANGES
        else:
            sharing = await self._shared_rooms.sharing_changes(user_id, since.events)
        other_users = changed_users - {user_id}
        changed = (
            set(await self._shared_rooms.sharing(user_id, other_users)) if other_users else set()
        )
        changed |= signed - sharing.ceased
        changed |= sharing.invited
        if user_id in changed_users:
            changed.add(user_id)
        if not changed and not sharing.began and not sharing.ceased:
            return NO_CHANGES
        return DeviceListChanges(sorted(changed | sharing.began), sorted(sharing.ceased - changed))

    async def _changed_and_signed(
        self, user_id: UserID, since: SyncToken, now: SyncToken
    ) -> tuple[set[UserID], set[UserID]]:
        """Return the users with changes, and the users whose keys this user signed."""
        if since.device_lists is now.device_lists:
            return set(), set()
        position = since.device_lists
        changed, signed = self._changes.since(position), self._signatures.since(position)
        if changed is not None and signed is not None:
            return changed, {target for signer, target in signed if signer == user_id}
        upto = now.device_lists.most()
        return await self._database.read(_read, position.floor, upto, user_id)


def _changed_users(row: DeviceListRow) -> tuple[UserID, ...]:
    """Return the user of a row whose change other users can see."""
    return () if row.signatures else (UserID(row.user_id),)


def _signed_pairs(row: DeviceListRow) -> list[tuple[UserID, UserID]]:
    """Return the signer and each user whose keys were signed."""
    if not row.signatures:
        return []
    return [(UserID(row.user_id), UserID(target)) for target in row.targets]


async def _read(tx: Tx, after: int, upto: int, user_id: UserID) -> tuple[set[UserID], set[UserID]]:
    changed = await device_lists.changed_users(tx, after, upto)
    signed = await device_lists.signed_users(tx, after, upto, user_id)
    return set(map(UserID, changed)), set(map(UserID, signed))
