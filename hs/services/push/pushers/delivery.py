"""What every kind of pusher has to tell the one who serves it."""

import enum
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.ids import UserID
from hs.storage.push.pushers import PusherKey, PusherRecord, QueueRecord

DAY_MS: Final = 24 * 3600 * 1000
KEPT_MS: Final = DAY_MS
"""How long a notification is tried before it is given up."""

Push = QueueRecord


@attrs.frozen
class Pusher:
    """A pusher as it is served; `options` is its data."""

    key: PusherKey
    kind: str
    options: dict[str, Any]
    lang: str
    set_ms: int
    position: int

    @property
    def user_id(self) -> UserID:
        """Give whom it serves."""
        return UserID(self.key.user_id)

    @classmethod
    def of(cls, record: PusherRecord) -> "Pusher":
        """Read what is stored."""
        key = PusherKey(record.user_id, record.app_id, record.pushkey)
        options = orjson.loads(record.data)
        return cls(key, record.kind, options, record.lang, record.set_ms, record.position)


class Verdict(enum.Enum):
    """What came of a delivery."""

    DONE = "done"  # or there was nothing to do
    LATER = "later"  # not now; it is worth another attempt
    REFUSED = "refused"  # this one will hardly ever be taken
    GONE = "gone"  # nobody is there any more: the pusher goes


class Delivery(Protocol):
    """Delivers one notification at a time."""

    async def deliver(self, pusher: Pusher, push: Push) -> Verdict:
        """Make one attempt."""
        ...

    async def deliver_badge(self, pusher: Pusher, shown: int | None) -> int | None:
        """Tell the number of unread messages if it is not what is shown; give what is shown."""
        ...
