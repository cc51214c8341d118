"""The receipts of one room in memory: as event contents, and as read positions of users.

Spec: client-server API, Receipts; Receiving notifications.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import shrink_to_fit
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
    """The current receipt of a key; `position` is its position in the stream `receipts`.

    `event_stream_id` is None if the event is not known. `thread_id` is "" if unthreaded.
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
        """The key of which only one receipt exists."""
        return (self.receipt_type, self.user_id, self.thread_id)


@attrs.frozen
class ReadPositions:
    """The read positions of a user: stream IDs of events, unthreaded and by thread."""

    everywhere: int = _NOWHERE
    threads: Mapping[str, int] = attrs.field(factory=dict)


NOTHING_READ: Final = ReadPositions()


@attrs.define(eq=False)
class RoomReceipts:
    """The receipts of a room, in order of their last change."""

    _receipts: dict[_Key, Receipt] = attrs.Factory(dict)
    _threads: dict[UserID, set[str]] = attrs.Factory(dict)
    _private: dict[UserID, int] = attrs.Factory(dict)  # position of the last private receipt
    _rendered: dict[int, bytes | None] = attrs.Factory(dict)
    weighed: int = 0
    changes: int = 0

    def __len__(self) -> int:
        return len(self._receipts)

    @property
    def position(self) -> int:
        """Position of the last change; 0 if there are no receipts."""
        last = next(reversed(self._receipts.values()), None)
        return 0 if last is None else last.position

    def put(self, receipt: Receipt) -> None:
        """Store a receipt, unless a later one with the same key is stored."""
        key = receipt.key
        existing = self._receipts.get(key)
        if existing is not None and existing.position >= receipt.position:
            return
        self.changes += 1
        self._receipts.pop(key, None)
        is_out_of_order = receipt.position < self.position
        self._receipts[key] = receipt
        if is_out_of_order:
            self._receipts = dict(
                sorted(self._receipts.items(), key=lambda entry: entry[1].position)
            )
        if receipt.thread_id != UNTHREADED:
            self._threads.setdefault(receipt.user_id, set()).add(receipt.thread_id)
        if receipt.receipt_type == READ_PRIVATE:
            position = self._private.get(receipt.user_id, 0)
            self._private[receipt.user_id] = max(position, receipt.position)
        self._rendered.clear()

    def find(self, receipt_type: str, user_id: UserID, thread_id: str) -> Receipt | None:
        """Return the receipt of a key, or None."""
        return self._receipts.get((receipt_type, user_id, thread_id))

    def content(self, user_id: UserID, after: int = 0) -> bytes | None:
        """Return the content of an m.receipt event with the receipts that changed after a position.

        Private receipts are included for their own user only. If several receipts of a user in
        different threads refer to one event, only the last changed one fits into the content.
        """
        if after >= self.position:
            return None
        if self._private.get(user_id, 0) > after:
            return _render(self._visible(user_id, after))
        if after not in self._rendered:
            if len(self._rendered) >= _MAX_RENDERED:
                self._rendered.clear()
            rendered = _render(self._visible(None, after))
            self._rendered[after] = rendered and shrink_to_fit(rendered)
        return self._rendered[after]

    def read_up_to(self, user_id: UserID) -> ReadPositions:
        """Return a user's read positions, from public and private receipts."""
        threads = self._threads.get(user_id)
        everywhere = self._furthest(user_id, UNTHREADED)
        if not threads:
            return NOTHING_READ if everywhere == _NOWHERE else ReadPositions(everywhere)
        return ReadPositions(everywhere, {root: self._furthest(user_id, root) for root in threads})

    def _furthest(self, user_id: UserID, thread_id: str) -> int:
        public = self._receipts.get((READ, user_id, thread_id))
        private = self._receipts.get((READ_PRIVATE, user_id, thread_id))
        return max(_stream_id_of(public), _stream_id_of(private))

    def _visible(self, user_id: UserID | None, after: int) -> list[Receipt]:
        changed: list[Receipt] = []
        for receipt in reversed(self._receipts.values()):
            if receipt.position <= after:
                break
            if receipt.receipt_type != READ_PRIVATE or receipt.user_id == user_id:
                changed.append(receipt)
        changed.reverse()
        return changed


def _stream_id_of(receipt: Receipt | None) -> int:
    if receipt is None or receipt.event_stream_id is None:
        return _NOWHERE
    return receipt.event_stream_id


def _render(receipts: Iterable[Receipt]) -> bytes | None:
    content: dict[str, dict[str, dict[str, Any]]] = {}
    for receipt in receipts:
        entry: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id != UNTHREADED:
            entry["thread_id"] = receipt.thread_id
        by_type = content.setdefault(receipt.event_id, {})
        by_type.setdefault(receipt.receipt_type, {})[receipt.user_id] = entry
    return orjson.dumps(content) if content else None
