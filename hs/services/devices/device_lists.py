"""Whose devices and keys changed, and who came into sight or went out of it, between two moments.

A user hears of those they share a room with: of each change while they do, of those they have
met since, and of those they have parted from.

Spec: client-server API, End-to-End Encryption, Tracking the device list for a user.
"""

from collections import OrderedDict
from typing import Final, NamedTuple, Protocol

from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.core.tokens import SyncToken
from hs.repl.feed import Batch, Feed
from hs.repl.rows import DeviceListRow
from hs.repl.streams import DEVICE_LISTS, EVENTS
from hs.services.devices.remote import MetAndParted, Neighbours
from hs.storage import device_lists
from hs.storage.database import Database

MAX_USERS: Final = 50_000
CATCH_UP_S: Final = 5.0


class Moment(Protocol):
    """The part of a sync token that is needed."""

    @property
    def events(self) -> VectorPosition: ...

    @property
    def device_lists(self) -> VectorPosition: ...


class DeviceListChanges(NamedTuple):
    """Users whose keys are to be asked for again, and users to be forgotten."""

    changed: list[UserID]
    left: list[UserID]


NOTHING: Final = DeviceListChanges([], [])
_NOBODY: Final = MetAndParted()


class DeviceLists:
    """Tells of changes."""

    def __init__(self, database: Database, feed: Feed, neighbours: Neighbours) -> None:
        self._database = database
        self._feed = feed
        self._neighbours = neighbours
        # The last change of each user, in the order of the changes; what came at or before
        # the floor is in the database only.
        self._public: OrderedDict[UserID, int] = OrderedDict()
        self._private: OrderedDict[UserID, int] = OrderedDict()
        self._floor: int | None = None
        feed.subscribe(DEVICE_LISTS, self._on_rows)

    async def between(self, user_id: UserID, since: str, to: str) -> DeviceListChanges:
        """Tell of changes between two tokens of /sync. Raises: InvalidParam."""
        earlier, later = SyncToken.parse(since), SyncToken.parse(to)
        await self._feed.wait_for_position(DEVICE_LISTS, later.device_lists, CATCH_UP_S)
        await self._feed.wait_for_position(EVENTS, later.events, CATCH_UP_S)
        return await self.changes(user_id, earlier, later)

    async def changes(self, user_id: UserID, since: Moment, now: Moment) -> DeviceListChanges:
        """Tell of changes since a moment.

        Of memberships, what changed after `now` may be in it as well: it comes again.
        """
        touched = await self._changed(user_id, since, now)
        if since.events is now.events:
            met, parted = _NOBODY
        else:
            met, parted = await self._neighbours.met_and_parted(user_id, since.events)
        others = touched - {user_id}
        changed = set(await self._neighbours.sharing(user_id, others)) if others else set()
        if user_id in touched:
            changed.add(user_id)
        if not changed and not met and not parted:
            return NOTHING
        return DeviceListChanges(sorted(changed | met), sorted(parted - changed))

    async def _changed(self, user_id: UserID, since: Moment, now: Moment) -> set[UserID]:
        if since.device_lists is now.device_lists:
            return set()
        after, upto = since.device_lists.floor, now.device_lists.most()
        touched = self._touched(user_id, after, upto)
        if touched is None:
            found = await self._database.read(device_lists.changed, after, upto, user_id)
            touched = {UserID(one) for one in found}
        return touched

    def _touched(self, user_id: UserID, after: int, upto: int) -> set[UserID] | None:
        floor = self._floor
        if floor is None:
            floor = self._feed.position(DEVICE_LISTS).most()
        if after < floor:
            return None
        touched: set[UserID] = set()
        for other_id, number in reversed(self._public.items()):
            if number <= after:
                break
            touched.add(other_id)
        if self._private.get(user_id, 0) > after:
            touched.add(user_id)
        return touched

    def _on_rows(self, batch: Batch[DeviceListRow]) -> None:
        if self._floor is None:
            self._floor = batch.prev
        for number, row in batch.rows:
            last = self._private if row.signatures else self._public
            user_id = UserID(row.user_id)
            last[user_id] = number
            last.move_to_end(user_id)
            if len(last) > MAX_USERS:
                _, dropped = last.popitem(last=False)
                self._floor = max(self._floor, dropped)
