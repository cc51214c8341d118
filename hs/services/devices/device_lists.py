"""Whose devices and keys changed, and who came into sight or went out of it, between two moments.

A user hears of those they share a room with: of each change while they do, of those they have
met since, and of those they have parted from. Whoever signs another's keys hears of those at
once, as only they see the signature.

Spec: client-server API, End-to-End Encryption, Tracking the device list for a user.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol, TypeVar

from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.core.tokens import SyncToken
from hs.repl.feed import Batch, Feed
from hs.repl.rows import DeviceListRow
from hs.repl.streams import DEVICE_LISTS, EVENTS
from hs.services.devices.remote_devices import MetAndParted, Neighbours
from hs.storage.database import Database, Tx
from hs.storage.devices import device_lists

K = TypeVar("K")
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
        # The last change of each user, in the order of the changes, and the last signature of
        # each user on another's keys; what came at or before the floor is in the database only.
        self._public: OrderedDict[UserID, int] = OrderedDict()
        self._signed: OrderedDict[tuple[UserID, UserID], int] = OrderedDict()
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
        touched, signed = await self._changed(user_id, since, now)
        if since.events is now.events:
            met, parted = _NOBODY
        else:
            met, parted = await self._neighbours.met_and_parted(user_id, since.events)
        others = touched - {user_id}
        changed = set(await self._neighbours.sharing(user_id, others)) if others else set()
        changed |= signed - parted
        if user_id in touched:
            changed.add(user_id)
        if not changed and not met and not parted:
            return NOTHING
        return DeviceListChanges(sorted(changed | met), sorted(parted - changed))

    async def _changed(
        self, user_id: UserID, since: Moment, now: Moment
    ) -> tuple[set[UserID], set[UserID]]:
        """Give who changed, and whose keys this user signed."""
        if since.device_lists is now.device_lists:
            return set(), set()
        after, upto = since.device_lists.floor, now.device_lists.most()
        floor = self._floor
        if floor is None:
            floor = self._feed.position(DEVICE_LISTS).most()
        if after >= floor:
            signers = _later(self._signed, after)
            return set(_later(self._public, after)), {of for by, of in signers if by == user_id}
        return await self._database.read(_read, after, upto, user_id)

    def _on_rows(self, batch: Batch[DeviceListRow]) -> None:
        if self._floor is None:
            self._floor = batch.prev
        for number, row in batch.rows:
            user_id = UserID(row.user_id)
            if row.signatures:
                for target in row.targets:
                    self._keep(self._signed, (user_id, UserID(target)), number)
            else:
                self._keep(self._public, user_id, number)

    def _keep(self, last: OrderedDict[K, int], key: K, number: int) -> None:
        last[key] = number
        last.move_to_end(key)
        if len(last) > MAX_USERS:
            _, dropped = last.popitem(last=False)
            self._floor = max(self._floor or 0, dropped)


def _later(last: OrderedDict[K, int], after: int) -> Iterator[K]:
    for key, number in reversed(last.items()):
        if number <= after:
            return
        yield key


async def _read(tx: Tx, after: int, upto: int, user_id: UserID) -> tuple[set[UserID], set[UserID]]:
    changed = await device_lists.changed(tx, after, upto)
    signed = await device_lists.signed(tx, after, upto, user_id)
    return {UserID(one) for one in changed}, {UserID(one) for one in signed}
