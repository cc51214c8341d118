"""The receipts of one room in memory: as events for clients, and as how far a user has read.

Spec: client-server API, Receipts; Receiving notifications.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import for_keeping
from hs.core.ids import EventID, UserID

READ: Final = "m.read"
READ_PRIVATE: Final = "m.read.private"
FULLY_READ: Final = "m.fully_read"
UNTHREADED: Final = ""

_MAX_RENDERED: Final = 64
_NOWHERE: Final = -(2**62)
_Key = tuple[str, UserID, str]


@attrs.frozen(slots=True)
class Receipt:
    """One receipt as it stands; `position` is its place in the stream of receipts.

    `event_stream_id` is None while the event is not here. `thread_id` is "" when unthreaded.
    """

    receipt_type: str
    user_id: UserID
    thread_id: str
    event_id: EventID
    event_stream_id: int | None
    ts: int
    position: int

    @property
    def key(self) -> _Key:
        """Give what there is one receipt for."""
        return (self.receipt_type, self.user_id, self.thread_id)


@attrs.frozen
class ReadUpTo:
    """How far a user has read by receipts: stream numbers of events, in all and by thread."""

    everywhere: int = _NOWHERE
    threads: Mapping[str, int] = attrs.field(factory=dict)


NOTHING_READ: Final = ReadUpTo()


@attrs.define(eq=False)
class RoomReceipts:
    """The receipts of one room, those that moved last at the end."""

    _held: dict[_Key, Receipt] = attrs.Factory(dict)
    _threads: dict[UserID, set[str]] = attrs.Factory(dict)
    _private: dict[UserID, int] = attrs.Factory(dict)  # position of a user's last private one
    _rendered: dict[int, bytes | None] = attrs.Factory(dict)
    weighed: int = 0
    changes: int = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def position(self) -> int:
        """Give the position of the last move; 0 if there is none."""
        last = next(reversed(self._held.values()), None)
        return 0 if last is None else last.position

    def put(self, receipt: Receipt) -> None:
        """Note a receipt; of two with one key the later one counts."""
        key = receipt.key
        old = self._held.get(key)
        if old is not None and old.position >= receipt.position:
            return
        self.changes += 1
        self._held.pop(key, None)
        behind = receipt.position < self.position
        self._held[key] = receipt
        if behind:
            self._held = dict(sorted(self._held.items(), key=lambda one: one[1].position))
        if receipt.thread_id != UNTHREADED:
            self._threads.setdefault(receipt.user_id, set()).add(receipt.thread_id)
        if receipt.receipt_type == READ_PRIVATE:
            at = self._private.get(receipt.user_id, 0)
            self._private[receipt.user_id] = max(at, receipt.position)
        self._rendered.clear()

    def find(self, receipt_type: str, user_id: UserID, thread_id: str) -> Receipt | None:
        """Give one receipt as it stands."""
        return self._held.get((receipt_type, user_id, thread_id))

    def content(self, user_id: UserID, after: int = 0) -> bytes | None:
        """Give the content of an m.receipt event with what moved after a position.

        Private receipts are the user's own only. When receipts of one user in several threads
        are on one event, the event has place for the one that moved last.
        """
        if after >= self.position:
            return None
        if self._private.get(user_id, 0) > after:
            return _render(self._visible(user_id, after))
        if after not in self._rendered:
            if len(self._rendered) >= _MAX_RENDERED:
                self._rendered.clear()
            rendered = _render(self._visible(None, after))
            self._rendered[after] = rendered and for_keeping(rendered)
        return self._rendered[after]

    def read_up_to(self, user_id: UserID) -> ReadUpTo:
        """Tell how far a user has read, by public and private receipts."""
        threads = self._threads.get(user_id)
        everywhere = self._furthest(user_id, UNTHREADED)
        if not threads:
            return NOTHING_READ if everywhere == _NOWHERE else ReadUpTo(everywhere)
        return ReadUpTo(everywhere, {root: self._furthest(user_id, root) for root in threads})

    def _furthest(self, user_id: UserID, thread_id: str) -> int:
        public = self._held.get((READ, user_id, thread_id))
        private = self._held.get((READ_PRIVATE, user_id, thread_id))
        return max(_place(public), _place(private))

    def _visible(self, user_id: UserID | None, after: int) -> list[Receipt]:
        moved: list[Receipt] = []
        for receipt in reversed(self._held.values()):
            if receipt.position <= after:
                break
            if receipt.receipt_type != READ_PRIVATE or receipt.user_id == user_id:
                moved.append(receipt)
        moved.reverse()
        return moved


def _place(receipt: Receipt | None) -> int:
    if receipt is None or receipt.event_stream_id is None:
        return _NOWHERE
    return receipt.event_stream_id


def _render(receipts: Iterable[Receipt]) -> bytes | None:
    content: dict[str, dict[str, dict[str, Any]]] = {}
    for receipt in receipts:
        told: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id != UNTHREADED:
            told["thread_id"] = receipt.thread_id
        of_event = content.setdefault(receipt.event_id, {})
        of_event.setdefault(receipt.receipt_type, {})[receipt.user_id] = told
    return orjson.dumps(content) if content else None
