"""What sync reads of other services, as narrow as it needs it.

Numbers called `after` and `upto` are positions in the stream of the service: entries in
`(after, upto]` are wanted. To give an entry newer than `upto` is harmless: it comes again.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from hs.core.filters import SyncFilter
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.push.unread import RoomCounts
from hs.core.requester import Requester
from hs.services.accounts.account_data.account_data import AccountDataEntry as AccountDataEntry


class AccountData(Protocol):
    """Reads users' account data, tags included, push rules excluded."""

    async def all(self, user_id: UserID) -> Sequence[AccountDataEntry]:
        """Give all account data of a user, without what was deleted."""

    async def changes(self, user_id: UserID, after: int, upto: int) -> Sequence[AccountDataEntry]:
        """Give what changed in `(after, upto]` of the stream account_data.

        What was deleted is `{}`, which only those who synced before may be told.
        """


class PushRuleDocuments(Protocol):
    """Reads users' push rules as clients see them."""

    async def content(self, user_id: UserID) -> bytes:
        """Give the content of the m.push_rules event as JSON, `{"global": …}`."""


class Filters(Protocol):
    """Reads the filters that clients stored."""

    async def stored_filter(self, user_id: UserID, filter_id: str) -> SyncFilter:
        """Give a filter. Raises: NotFound."""


class Receipts(Protocol):
    """Reads receipts."""

    async def in_rooms(
        self, user_id: UserID, room_ids: Collection[RoomID], after: int, upto: int
    ) -> Mapping[RoomID, bytes]:
        """Give contents of m.receipt events with what moved in `(after, upto]`; 0 is everything.

        Private receipts are the user's own only. Rooms without any are left out.
        """


class Typing(Protocol):
    """Knows who types now."""

    def typing_users(self, room_id: RoomID) -> Sequence[UserID]:
        """Give who types in a room."""


class Presence(Protocol):
    """Tells presence to whom it concerns."""

    def syncing(
        self, user_id: UserID, device_id: str | None, state: str
    ) -> AbstractContextManager[None]:
        """Note that a device syncs while the context is open; `state` is `set_presence`.

        Cheap and synchronous; nothing is written but at edges.
        """

    async def changes(
        self, user_id: UserID, after: VectorPosition | None
    ) -> Mapping[UserID, bytes]:
        """Give whole m.presence events, as JSON, of those a user sees whose presence changed.

        With None: of all of them, for a first sync.
        """

    async def of(self, user_ids: Collection[UserID]) -> Mapping[UserID, bytes]:
        """Give whole m.presence events of some users, also of those who are offline."""


NO_COUNTS = RoomCounts()


class UnreadCounts(Protocol):
    """Counts unread events."""

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition
    ) -> Mapping[RoomID, RoomCounts]:
        """Give a user's counts; no entry means none. `upto` is a position of the events stream.

        It is up to the implementation how long to wait for its own reader to get there.
        """


class Extra(NamedTuple):
    """More members of an answer, by their names, as JSON; `news`: they are worth answering.

    `to_device` is where the next answer goes on in that stream; None: behind this one's end.
    """

    members: Mapping[str, bytes] = {}
    news: bool = False
    to_device: VectorPosition | None = None


class Extension(Protocol):
    """A section beside rooms, presence and account data, such as to_device."""

    async def render(
        self,
        requester: Requester,
        since: "Positioned | None",
        now: "Positioned",
        began: "Positioned",
    ) -> Extra:
        """Give what happened in `(since, now]`; since None: everything.

        `began` is when the request came.
        """


class Positioned(Protocol):
    """The part of a token that extensions read."""

    @property
    def events(self) -> VectorPosition: ...

    @property
    def to_device(self) -> VectorPosition: ...

    @property
    def device_lists(self) -> VectorPosition: ...
