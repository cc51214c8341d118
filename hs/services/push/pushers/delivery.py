"""Pushers, and the result of delivering one of their notifications."""

import enum
from typing import Any, Final

import attrs
import orjson

from hs.core.ids import UserID
from hs.storage.push.pushers import PusherKey, PusherRecord, QueueRecord

DAY_MS: Final = 24 * 3600 * 1000
KEPT_MS: Final = DAY_MS
"""How long delivery of a notification is retried."""

Push = QueueRecord


@attrs.frozen
class Pusher:
    """A pusher; `options` is its `data`, `position` the number of the last notification sent."""

    key: PusherKey
    kind: str
    options: dict[str, Any]
    lang: str
    set_ms: int
    position: int

    @property
    def user_id(self) -> UserID:
        """The user who is notified."""
        return UserID(self.key.user_id)

    @classmethod
    def of(cls, record: PusherRecord) -> "Pusher":
        """Parse a row of the table."""
        key = PusherKey(record.user_id, record.app_id, record.pushkey)
        options = orjson.loads(record.data)
        return cls(key, record.kind, options, record.lang, record.set_ms, record.position)


class DeliveryResult(enum.Enum):
    """The result of one attempt to deliver a notification."""

    DELIVERED = "delivered"  # or nothing was to be delivered
    FAILED = "failed"  # another attempt may succeed
    REFUSED = "refused"  # other attempts are unlikely to succeed
    GONE = "gone"  # the gateway no longer knows the app: the pusher is to be deleted
