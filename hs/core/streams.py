"""The streams of the server: for each one the class of its rows, then its declaration.

This is the only list of streams. Whatever treats all of them alike is derived from it: the slots
of the sync token and the positions in it (hs.services.sync.positions), the subscriptions of the
notifier (hs.services.sync.notifier), the names in `stream_writers` (hs.settings.sections.workers),
the streams that a process writes (hs.nursery.plan) and follows (hs.repl.ownership). The settings
and replication need it, so it is in core.

A row says what changed, so that readers need not query the database. Rows are sent and logged as
MessagePack maps, between processes of two releases as well: new fields come last, with a default.
"""

from typing import Any, Final

import attrs
import msgspec

from hs.core.events.event_types import MEMBER
from hs.core.stream_def import StreamDef, StreamKind, StreamWriters, WakeRule

PRIVATE_RECEIPT: Final = "m.read.private"

# Events

# (type, state key, event ID or None if the entry was removed, membership if it is m.room.member)
StateChange = tuple[str, str, str | None, str | None]


# A Struct, as this is the row that is written, sent and read most: every message is one.
class EventRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An event was stored in a room.

    `pdu` is its canonical JSON; None if the row comes from the log of commits, and then the reader
    loads the event. `snapshot_id` is the state before the event. `membership` and
    `prev_membership` are set for m.room.member only. `sticky_until` is the time (ms) until which
    the event is sticky, or 0. `state_changes` lists the changes to the current state; None: itself.
    """

    room_id: str
    event_id: str
    type: str
    sender: str
    state_key: str | None
    depth: int
    origin_server_ts: int
    membership: str | None = None
    prev_membership: str | None = None
    outlier: bool = False
    soft_failed: bool = False
    rejected: bool = False
    redacts: str | None = None
    relates_to: tuple[str, str] | None = None  # (rel_type, parent event ID)
    txn: tuple[str, str] | None = None  # (device ID, the client's transaction ID)
    room_version: str = ""
    pdu: bytes | None = None
    snapshot_id: int | None = None
    contains_url: bool = False
    redaction_applies: bool = False  # the event redacted `redacts`
    redacted_by: str | None = None  # a redaction of this event was stored before it
    state_changes: tuple[StateChange, ...] | None = None
    lost_relation: tuple[str, str] | None = None  # `relates_to` of the event that was redacted
    sticky_until: int = 0
    relay: bool = False  # an event of another server that this one sends to the others
    left_servers: tuple[str, ...] = ()  # other servers not in the room that it removes users of
    outside: bool = False  # an outlier: a local user's membership in a room that we are not in
    number: int = 0  # the event's stream ID, if it is not that of the row (outliers, history)
    after_gap: bool = False  # this server lacks events before it
    hidden: bool = False  # accepted, and not shown to clients
    distributed: bool = False  # another server sends the event of this one to the others

    @property
    def is_shown(self) -> bool:
        """Whether clients may see the event: it is accepted, and not hidden."""
        return not (self.outlier or self.soft_failed or self.rejected or self.hidden)

    @property
    def is_plain(self) -> bool:
        """Whether this is a shown event that concerns nothing but itself, such as a message.

        It changes neither state nor memberships, refers to no other event, is not sticky, and was
        not stored before as an outlier.
        """
        return (
            self.state_key is None
            and self.state_changes is None
            and self.relates_to is None
            and self.redacts is None
            and self.type != MEMBER
            and not self.sticky_until
            and not (self.outlier or self.soft_failed or self.rejected or self.hidden)
            and not (self.number or self.after_gap or self.outside or self.redaction_applies)
            and self.redacted_by is None
            and self.lost_relation is None
        )

    def changes(self) -> tuple[StateChange, ...]:
        """Return the changes to the current state of the room."""
        if self.state_changes is not None:
            return self.state_changes
        if self.state_key is None or self.outlier or self.soft_failed or self.rejected:
            return ()
        return ((self.type, self.state_key, self.event_id, self.membership),)


def without_pdu(row: EventRow) -> EventRow:
    """Remove the bytes of the event, which are in the table of events."""
    return row if row.pdu is None else msgspec.structs.replace(row, pdu=None)


EVENTS = StreamDef(
    "events",
    EventRow,
    StreamKind.TABLE,
    StreamWriters.SHARDED,  # by room ID
    wake_rule=WakeRule.ROOM_MEMBERS,
    slim=without_pdu,
    is_plain=lambda row: row.is_plain,
)
# Events from before this server's part of a room's history, with negative stream IDs (`number`).
BACKFILL = StreamDef(
    "backfill",
    EventRow,
    StreamKind.TABLE,
    StreamWriters.SHARDED,
    written_with="events",
    slim=without_pdu,
)

# Receipts, typing notifications, presence


@attrs.frozen
class ReceiptRow:
    """A user's receipt moved; `event_stream_id` is None if the event is not stored here."""

    room_id: str
    receipt_type: str
    user_id: str
    event_id: str
    thread_id: str | None
    ts: int
    content: bytes | None = None
    event_stream_id: int | None = None


RECEIPTS = StreamDef(
    "receipts",
    ReceiptRow,
    StreamKind.TABLE,
    StreamWriters.SHARDED,  # by user ID
    wakes_users=lambda row: (row.user_id,) if row.receipt_type == PRIVATE_RECEIPT else (),
    wakes_rooms=lambda row: () if row.receipt_type == PRIVATE_RECEIPT else (row.room_id,),
    is_plain=lambda row: True,
)


@attrs.frozen
class TypingRow:
    """The users who are typing in a room changed; `user_ids` are all who type now."""

    room_id: str
    user_ids: tuple[str, ...]


TYPING = StreamDef(
    "typing",
    TypingRow,
    StreamKind.MEMORY,
    StreamWriters.SHARDED,  # by room ID
    wakes_rooms=lambda row: (row.room_id,),
    recent=10_000,
    key=lambda row: row.room_id,
    owner_key=lambda row: row.room_id,
    is_plain=lambda row: True,
)


@attrs.frozen
class PresenceRow:
    """A user's presence changed to this. A quiet row does not end long polls."""

    user_id: str
    state: str
    last_active_ts: int
    status_msg: str | None = None
    currently_active: bool = False
    is_quiet: bool = False


PRESENCE = StreamDef(
    "presence",
    PresenceRow,
    StreamKind.MEMORY,
    StreamWriters.SHARDED,  # by user ID
    wake_rule=WakeRule.SHARED_ROOMS,
    recent=10_000,
    owner_key=lambda row: row.user_id,
    is_plain=lambda row: True,
)

# Profiles, account data and push


@attrs.frozen
class ProfileUpdateRow:
    """A profile field of a user of this server was set or deleted."""

    user_id: str
    field: str


PROFILE_UPDATES = StreamDef(
    "profile_updates",
    ProfileUpdateRow,
    StreamKind.TABLE,
    StreamWriters.ANY,
    wake_rule=WakeRule.PROFILE_FOLLOWERS,
)


@attrs.frozen
class AccountDataRow:
    """Account data changed: global (`room_id` is None) or of a room. Tags have the type m.tag."""

    user_id: str
    room_id: str | None
    type: str
    content: bytes | None = None


ACCOUNT_DATA = StreamDef(
    "account_data",
    AccountDataRow,
    StreamKind.TABLE,
    StreamWriters.SHARDED,  # by user ID
    wakes_users=lambda row: (row.user_id,),
)


@attrs.frozen
class PushRulesRow:
    """A user's push rules changed; `rules` are all that the user has set, as stored."""

    user_id: str
    rules: bytes | None = None


PUSH_RULES = StreamDef(
    "push_rules",
    PushRulesRow,
    StreamKind.TABLE,
    StreamWriters.ONE,
    wakes_users=lambda row: (row.user_id,),
)


class Unread(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The effect of one event on unread counts.

    `notify` and `highlight` hold for local members with the default push rules. `exceptions` are
    the other members: (user ID, difference to their notify count, difference to their highlight
    count).
    """

    stream_id: int
    room_id: str
    event_id: str
    thread_id: str
    sender: str
    notify: bool
    highlight: bool
    exceptions: tuple[tuple[str, int, int], ...] = ()


class UnreadRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Push rules were evaluated for the events of one writer, up to the position `upto`.

    `marks` are (user ID, room ID, thread ID, stream ID): the user has read up to there, by joining
    or sending. `removed` are (room ID, stream ID) of redacted events. `stored` is the position in
    this stream up to which the database has all rows.
    """

    writer: str
    upto: int
    unread: tuple[Unread, ...] = ()
    marks: tuple[tuple[str, str, str, int], ...] = ()
    removed: tuple[tuple[str, int], ...] = ()
    stored: int = 0

    def rooms(self) -> set[str]:
        """Return the rooms in which counts may have changed."""
        rooms = {unread.room_id for unread in self.unread}
        rooms.update([mark[1] for mark in self.marks])
        rooms.update([room_id for room_id, _ in self.removed])
        return rooms


UNREAD = StreamDef(
    "unread", UnreadRow, StreamKind.MEMORY, StreamWriters.ONE, is_plain=lambda row: True
)


@attrs.frozen
class PusherRow:
    """A pusher was set or, with `removed`, deleted; only an `enabled` pusher sends anything."""

    user_id: str
    app_id: str
    pushkey: str
    removed: bool = False
    enabled: bool = True


PUSHERS = StreamDef("pushers", PusherRow, StreamKind.TABLE, StreamWriters.ONE)


@attrs.frozen
class QueuedPush:
    """An entry of the push queue, for users who have pushers and the same actions."""

    seq: int
    stream_id: int
    room_id: str
    event_id: str
    thread_id: str
    actions: str
    added_ms: int
    user_ids: tuple[str, ...]


@attrs.frozen
class PushesRow:
    """Entries were added to the push queue in the database."""

    pushes: tuple[QueuedPush, ...]


PUSHES = StreamDef(
    "pushes",
    PushesRow,
    StreamKind.MEMORY,
    StreamWriters.ONE,
    written_with="unread",
    recent=100,
)

# Devices


class ToDeviceRow(msgspec.Struct, frozen=True):
    """To-device messages were added to inboxes, or the key counts of devices changed (`keys`).

    `devices` are (user ID, device ID), hundreds in one row for one request. Their `messages`, one
    for each device, are JSON without the beginning that all have in common, `head`; None means
    that they are only in the table. With `gone` the inboxes of the devices were deleted.
    """

    devices: tuple[tuple[str, str], ...]
    messages: tuple[bytes, ...] | None = None
    keys: bool = False
    gone: bool = False
    head: bytes = b""


def without_messages(row: ToDeviceRow) -> ToDeviceRow:
    """Remove the messages, which are in the table of inboxes."""
    return row if row.messages is None else msgspec.structs.replace(row, messages=None, head=b"")


TO_DEVICE = StreamDef(
    "to_device",
    ToDeviceRow,
    StreamKind.TABLE,
    StreamWriters.SHARDED,  # by ID of the user who gets the messages
    wake_rule=WakeRule.DEVICE_OWNERS,
    slim=without_messages,
)


@attrs.frozen
class DeviceListRow:
    """The devices, device keys or cross-signing keys of a user changed.

    `device_id` is None if it was more than one device. The users who share a room with the user
    track the device list. With `signatures` only the user's own devices are concerned: the user
    signed keys of `targets`, or changed the user-signing key.
    """

    user_id: str
    device_id: str | None = None
    signatures: bool = False
    targets: tuple[str, ...] = ()


DEVICE_LISTS = StreamDef(
    "device_lists",
    DeviceListRow,
    StreamKind.TABLE,
    StreamWriters.SHARDED,  # by user ID; the lists of users of another server by its name
    wake_rule=WakeRule.DEVICE_TRACKERS,
)

# Threads


@attrs.frozen
class ThreadSubscriptionRow:
    """A user subscribed to a thread, explicitly or automatically, or unsubscribed from it."""

    user_id: str
    room_id: str
    root_id: str
    subscribed: bool


THREAD_SUBSCRIPTIONS = StreamDef(
    "thread_subscriptions",
    ThreadSubscriptionRow,
    StreamKind.TABLE,
    StreamWriters.ONE,
    wakes_users=lambda row: (row.user_id,),
)

# Between processes


@attrs.frozen
class FederationRow:
    """There is something to send to these servers."""

    destinations: tuple[str, ...]
    kind: str


FEDERATION = StreamDef(
    "federation", FederationRow, StreamKind.MEMORY, StreamWriters.EVERY, is_awaited=False
)


@attrs.frozen
class DestinationRow:
    """A server did not respond, and is tried again at `retry_ms`; 0: it responded again."""

    server: str
    failing_since_ms: int = 0
    retry_ms: int = 0
    interval_ms: int = 0
    is_limited: bool = False  # it responded, that it wants no requests until then
    failures: int = 0


DESTINATIONS = StreamDef("destinations", DestinationRow, StreamKind.TABLE, StreamWriters.ANY)


@attrs.frozen
class SlotsRow:
    """Slots (number, epoch) of a stream passed to another process; see hs/repl/slots.

    `ends` are the positions (stream, writer, position) after which the process that held them
    writes nothing more of these slots, `begins` those before which the new holder wrote nothing.
    """

    stream: str
    holder: str
    slots: tuple[tuple[int, int], ...]
    ends: tuple[tuple[str, str, int], ...] = ()
    begins: tuple[tuple[str, str, int], ...] = ()


SLOTS = StreamDef("slots", SlotsRow, StreamKind.TABLE, StreamWriters.ANY)


@attrs.frozen
class RatesRow:
    """Rate limits that a process charged: (limit, key, seconds until that much is refilled)."""

    granted: tuple[tuple[str, str, float], ...]


RATES = StreamDef(
    "rates", RatesRow, StreamKind.MEMORY, StreamWriters.EVERY, recent=1, is_awaited=False
)


@attrs.frozen
class CacheRow:
    """Entries of a cache are no longer valid; without `keys`, none of them is."""

    cache: str
    keys: tuple[str, ...] = ()


CACHES = StreamDef("caches", CacheRow, StreamKind.MEMORY, StreamWriters.EVERY, recent=10_000)

# All of the above, in the order in which they are declared.
CATALOGUE: Final[tuple[StreamDef[Any], ...]] = tuple(
    [stream for stream in list(globals().values()) if isinstance(stream, StreamDef)]
)
