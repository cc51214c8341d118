"""The catalogue of streams: what changes, who writes it, and whether it outlives a restart."""

import enum
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import attrs
import msgspec

from hs.repl.rows import (
    AccountDataRow,
    CacheRow,
    DeviceListRow,
    EventRow,
    FederationRow,
    PresenceRow,
    PusherRow,
    PushesRow,
    PushRulesRow,
    RatesRow,
    ReceiptRow,
    ThreadSubscriptionRow,
    ToDeviceRow,
    TypingRow,
    UnreadRow,
)

R = TypeVar("R")


class Kind(enum.Enum):
    """Where the rows of a stream live."""

    TABLE = "table"  # rows are stored; nothing is ever lost
    MEMORY = "memory"  # rows live in the writer; its restart begins a new epoch


class Writers(enum.Enum):
    """Which instances may write a stream."""

    ONE = "one"
    SHARDED = "sharded"  # several; each key has one owner
    EVERY = "every"  # every instance, about itself


def whole(row: Any) -> Any:
    """Keep all of a row in the log."""
    return row


@attrs.frozen(eq=False)
class StreamDef(Generic[R]):
    """One stream: its name, the class of its rows and how it is written.

    A TABLE stream needs no query of its own: the log of recent commits, kept by TableWriter when
    there are other processes, repairs gaps. `slim` strips a row to what is worth keeping there.
    `recent` is how many rows a MEMORY writer remembers for readers that missed some; where rows
    have a `key`, a later one replaces the earlier.
    """

    name: str
    row: type[R]
    kind: Kind
    writers: Writers = Writers.ONE
    slim: Callable[[R], R] = whole
    recent: int = 1000
    key: Callable[[R], Hashable] | None = None


def without_pdu(row: EventRow) -> EventRow:
    """Leave the bytes of the event to the events table."""
    return attrs.evolve(row, pdu=None)


def without_messages(row: ToDeviceRow) -> ToDeviceRow:
    """Leave the messages to their table."""
    return row if row.messages is None else msgspec.structs.replace(row, messages=None, head=b"")


EVENTS = StreamDef("events", EventRow, Kind.TABLE, Writers.SHARDED, slim=without_pdu)
BACKFILL = StreamDef("backfill", EventRow, Kind.TABLE, Writers.SHARDED, slim=without_pdu)
RECEIPTS = StreamDef("receipts", ReceiptRow, Kind.TABLE)
TYPING = StreamDef("typing", TypingRow, Kind.MEMORY, recent=10_000, key=lambda row: row.room_id)
PRESENCE = StreamDef("presence", PresenceRow, Kind.MEMORY, recent=10_000)
ACCOUNT_DATA = StreamDef("account_data", AccountDataRow, Kind.TABLE)
PUSH_RULES = StreamDef("push_rules", PushRulesRow, Kind.TABLE)
UNREAD = StreamDef("unread", UnreadRow, Kind.MEMORY)
PUSHERS = StreamDef("pushers", PusherRow, Kind.TABLE)
PUSHES = StreamDef("pushes", PushesRow, Kind.MEMORY, recent=100)
TO_DEVICE = StreamDef("to_device", ToDeviceRow, Kind.TABLE, slim=without_messages)
DEVICE_LISTS = StreamDef("device_lists", DeviceListRow, Kind.TABLE)
THREAD_SUBSCRIPTIONS = StreamDef("thread_subscriptions", ThreadSubscriptionRow, Kind.TABLE)
FEDERATION = StreamDef("federation", FederationRow, Kind.MEMORY, Writers.EVERY)
RATES = StreamDef("rates", RatesRow, Kind.MEMORY, Writers.EVERY, recent=1)
CACHES = StreamDef("caches", CacheRow, Kind.MEMORY, Writers.EVERY, recent=10_000)

CATALOGUE: tuple[StreamDef[Any], ...] = (
    EVENTS,
    BACKFILL,
    RECEIPTS,
    TYPING,
    PRESENCE,
    ACCOUNT_DATA,
    PUSH_RULES,
    UNREAD,
    PUSHERS,
    PUSHES,
    TO_DEVICE,
    DEVICE_LISTS,
    THREAD_SUBSCRIPTIONS,
    FEDERATION,
    RATES,
    CACHES,
)
