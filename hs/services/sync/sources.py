"""The Protocols by which sync reads from other services.

`after` and `upto` are positions in the stream of the service: a method returns the entries in
`(after, upto]`. Entries that are newer than `upto` do no harm: the client gets them twice.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from hs.core.filters import SyncFilter
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.push.unread import RoomCounts
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.accounts.account_data.account_data import AccountDataEntry as AccountDataEntry


class AccountData(Protocol):
    """Account data of users, including tags and excluding push rules."""

    async def all(self, user_id: UserID) -> Sequence[AccountDataEntry]:
        """Return all account data of a user but deleted entries."""

    async def changes(self, user_id: UserID, after: int, upto: int) -> Sequence[AccountDataEntry]:
        """Return the entries that changed in `(after, upto]` of the stream account_data.

        A deleted entry is `{}`; only clients that synced before may get it.
        """


class PushRuleDocuments(Protocol):
    """Push rules of users as clients see them."""

    async def content(self, user_id: UserID) -> bytes:
        """Return the content of the m.push_rules event as JSON, `{"global": …}`."""


class Filters(Protocol):
    """The filters that clients stored."""

    async def stored_filter(self, user_id: UserID, filter_id: str) -> SyncFilter:
        """Return a stored filter. Raises: NotFound."""


class ReceiptSource(Protocol):
    """Receipts in rooms."""

    async def in_rooms(
        self, user_id: UserID, room_ids: Collection[RoomID], after: int, upto: int
    ) -> Mapping[RoomID, bytes]:
        """Return the contents of m.receipt events with the receipts that moved in `(after, upto]`.

        Only the user's own private receipts are included. Rooms without receipts are omitted.
        """


class Typing(Protocol):
    """The users who are typing now."""

    def typing_users(self, room_id: RoomID) -> Sequence[UserID]:
        """Return the users who are typing in a room."""


class Presence(Protocol):
    """Presence of users."""

    def syncing(
        self, user_id: UserID, device_id: str | None, state: str
    ) -> AbstractContextManager[None]:
        """Note that a device syncs within a `with` block; `state` is `set_presence`.

        Cheap: something is written only when the user's presence changes.
        """

    async def changes(
        self, user_id: UserID, after: VectorPosition | None
    ) -> Mapping[UserID, bytes]:
        """Return m.presence events, as JSON, of users that a user sees and that changed.

        With None, return those of all users that the user sees, for a first sync.
        """

    async def of(self, user_ids: Collection[UserID]) -> Mapping[UserID, bytes]:
        """Return m.presence events of some users, including those who are offline."""


NO_COUNTS = RoomCounts()


class UnreadCountSource(Protocol):
    """Unread counts."""

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition
    ) -> Mapping[RoomID, RoomCounts]:
        """Return a user's counts up to a position of the stream events; no entry means none.

        The implementation decides how long to wait for the evaluation of push rules up to there.
        """


class ExtensionResult(NamedTuple):
    """More members of a response as JSON, by name; with `news` they end a long poll.

    `to_device` is the position from which the next response continues in that stream; None means
    the end of this response.
    """

    members: Mapping[str, bytes] = {}
    has_changes: bool = False
    to_device: VectorPosition | None = None


class Extension(Protocol):
    """A section of responses besides rooms, presence and account data, such as to_device."""

    async def render(
        self,
        requester: Requester,
        since: SyncToken | None,
        now: SyncToken,
        began: SyncToken,
    ) -> ExtensionResult:
        """Return what happened in `(since, now]`, or everything if `since` is None.

        `began` is the position at which the request arrived.
        """
