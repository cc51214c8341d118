"""The rows of the streams: one small frozen class per stream, encodable by msgspec.

A row says what changed, for readers in other processes; it carries enough that they need not go
to the database. New fields go last and have a default, so that two releases can run together.
"""

import attrs
import msgspec

# (type, state key, event ID or None when the key is gone, membership of an m.room.member)
StateChange = tuple[str, str, str | None, str | None]


@attrs.frozen
class EventRow:
    """One event stored in a room.

    `pdu` is the event's canonical bytes; None when the row was read back from the log, then the
    reader loads the event. `membership` and `prev_membership` are of m.room.member events only.
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
    txn: tuple[str, str] | None = None  # (device ID, or token row, and the client's txn ID)
    room_version: str = ""
    pdu: bytes | None = None
    snapshot_id: int | None = None  # the state before the event
    contains_url: bool = False
    redaction_applies: bool = False  # `redacts` is gone from now on
    redacted_by: str | None = None  # a redaction was here first
    # What changed in the room's current state, when that is not just the event itself.
    state_changes: tuple[StateChange, ...] | None = None
    # With `redaction_applies`, how what is gone was related: (rel_type, parent event ID)
    lost_relation: tuple[str, str] | None = None

    def changes(self) -> tuple[StateChange, ...]:
        """List what the event changed in the current state of its room."""
        if self.state_changes is not None:
            return self.state_changes
        if self.state_key is None or self.outlier or self.soft_failed or self.rejected:
            return ()
        return ((self.type, self.state_key, self.event_id, self.membership),)


@attrs.frozen
class ReceiptRow:
    """A receipt moved; `event_stream_id` is the number of its event, None if that is not here."""

    room_id: str
    receipt_type: str
    user_id: str
    event_id: str
    thread_id: str | None
    ts: int
    content: bytes | None = None
    event_stream_id: int | None = None


@attrs.frozen
class TypingRow:
    """Who types in a room now; the whole list, so that a later row replaces an earlier one."""

    room_id: str
    user_ids: tuple[str, ...]


@attrs.frozen
class PresenceRow:
    """The presence of one user as it is now."""

    user_id: str
    state: str
    last_active_ts: int
    status_msg: str | None = None
    currently_active: bool = False


@attrs.frozen
class AccountDataRow:
    """Account data changed: of the account (room_id None) or of a room; tags are type m.tag."""

    user_id: str
    room_id: str | None
    type: str
    content: bytes | None = None


@attrs.frozen
class PushRulesRow:
    """The push rules of a user changed; `rules` is all that they have set, as it is stored."""

    user_id: str
    rules: bytes | None = None


@attrs.frozen
class Unread:
    """What one event does to those who have not read it.

    `notify` and `highlight` hold for local members with the default rules; `exceptions` are
    (user, difference of notify, difference of highlight) of others.
    """

    stream_id: int
    room_id: str
    event_id: str
    thread_id: str
    sender: str
    notify: bool
    highlight: bool
    exceptions: tuple[tuple[str, int, int], ...] = ()


@attrs.frozen
class UnreadRow:
    """Push rules were evaluated for the events of a writer up to a position.

    `marks` are (user, room, thread, stream number) up to which users have read by joining or
    sending; `removed` are (room, stream number) of events that were redacted. `stored` is the
    position in this stream up to which all is in the database.
    """

    writer: str
    upto: int
    unread: tuple[Unread, ...] = ()
    marks: tuple[tuple[str, str, str, int], ...] = ()
    removed: tuple[tuple[str, int], ...] = ()
    stored: int = 0


@attrs.frozen
class PusherRow:
    """A pusher was set or, with `removed`, deleted; one that is not `enabled` sends nothing."""

    user_id: str
    app_id: str
    pushkey: str
    removed: bool = False
    enabled: bool = True


@attrs.frozen
class QueuedPush:
    """A notification that waits in the queue of users who have pushers, with the same actions."""

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
    """Notifications were put in the queue; they are in the database."""

    pushes: tuple[QueuedPush, ...]


class ToDeviceRow(msgspec.Struct, frozen=True):
    """A message waits for each of these (user, device); or the counts of their keys changed.

    `messages`, one for each of `devices`, are JSON behind what all begin with, `head`; None when
    they are only in the table. With `gone` all that waited for the devices was dropped. One
    request makes one row for hundreds of devices.
    """

    devices: tuple[tuple[str, str], ...]
    messages: tuple[bytes, ...] | None = None
    keys: bool = False
    gone: bool = False
    head: bytes = b""


@attrs.frozen
class DeviceListRow:
    """The devices, keys or cross-signing keys of a user changed; `device_id` None: several.

    With `signatures` only the user's own devices see it: signatures on keys of `targets`, or a
    user-signing key of their own.
    `room_ids` are the rooms the user is joined to, whose members want to know.
    """

    user_id: str
    device_id: str | None = None
    signatures: bool = False
    targets: tuple[str, ...] = ()
    room_ids: tuple[str, ...] = ()


@attrs.frozen
class ThreadSubscriptionRow:
    """A user subscribed to a thread, by hand or not, or unsubscribed from it."""

    user_id: str
    room_id: str
    root_id: str
    subscribed: bool


@attrs.frozen
class FederationRow:
    """Something waits to be sent to these servers."""

    destinations: tuple[str, ...]
    kind: str
    payload: bytes | None = None


@attrs.frozen
class CacheRow:
    """Drop entries of a cache; no keys means all of them."""

    cache: str
    keys: tuple[str, ...] = ()


@attrs.frozen
class RatesRow:
    """What a process granted of limited things: of which limit, to whom, and for how many seconds.

    The seconds are those until the bucket has filled up again by as much.
    """

    granted: tuple[tuple[str, str, float], ...]
