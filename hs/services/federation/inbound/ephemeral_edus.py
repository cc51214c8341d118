"""Typing, receipts and presence of users of other servers.

Spec: server-server API, Typing Notifications; Receipts; Presence.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs

from hs.core.canonical_json import MAX_INTEGER
from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import (
    EventID,
    RoomID,
    ServerName,
    UserID,
    parse_event_id,
    parse_room_id,
    server_of,
)
from hs.core.relations import MAIN_TIMELINE
from hs.core.streams import PresenceRow
from hs.lib.clock import Clock
from hs.services.ephemeral.presence_writer import STATES, PresenceWriter
from hs.services.ephemeral.receipts import Move, ReceiptWriter
from hs.services.ephemeral.room_receipts import READ, UNTHREADED
from hs.services.ephemeral.typing_notifications import TypingWriter
from hs.services.federation.access.own_users import own_user
from hs.services.federation.inbound.early_presence import EarlyPresence
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.server_acls import ServerAcls
from hs.storage.database import Database
from hs.storage.ephemeral import receipts as receipt_rows
from hs.storage.rooms import memberships as membership_rows

TYPING_TIMEOUT_MS: Final = 60_000
MAX_ROOMS: Final = 50
MAX_RECEIPTS: Final = 1000
MAX_PRESENCES: Final = 500
MAX_STATUS_CHARS: Final = 1000


@attrs.frozen(eq=False)
class SharedRoomChecks:
    """Checks that a server may send data about a room."""

    _memberships: Memberships
    _acls: ServerAcls

    async def joined(self, origin: ServerName, value: object) -> tuple[RoomID, AbstractSet[UserID]]:
        """Return a room ID, and the members of the room, which change with the feed.

        Raises: InvalidParam; Forbidden, if this server is not in the room or its ACL excludes the
        other server.
        """
        room_id = parse_room_id(value)
        await self._acls.check(room_id, origin)
        present = await self._memberships.present(room_id)
        if not present.local:
            raise Forbidden("This server is not in the room")
        return room_id, present.joined.keys()


@attrs.frozen(eq=False)
class InboundTyping:
    """Applies m.typing EDUs."""

    _checks: SharedRoomChecks
    _writer: TypingWriter

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Set a user as typing, or as not typing. Raises: InvalidParam, Forbidden."""
        user_id = own_user(origin, content.get("user_id"))
        room_id, joined = await self._checks.joined(origin, content.get("room_id"))
        if user_id not in joined:
            raise Forbidden("The user is not in the room")
        timeout_ms = TYPING_TIMEOUT_MS if content.get("typing") is True else 0
        await self._writer.set_typing(room_id, user_id, timeout_ms)


@attrs.frozen(eq=False)
class _SentReceipt:
    user_id: UserID
    event_id: EventID
    thread_id: str
    ts: int


@attrs.frozen(eq=False)
class InboundReceipts:
    """Applies m.receipt EDUs."""

    _checks: SharedRoomChecks
    _database: Database
    _writer: ReceiptWriter
    _clock: Clock

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Move public receipts. Raises: InvalidParam."""
        if len(content) > MAX_ROOMS:
            raise InvalidParam(f"The receipts must be of at most {MAX_ROOMS} rooms")
        moves: list[Move] = []
        for room, by_type in content.items():
            by_user = by_type.get(READ) if isinstance(by_type, dict) else None
            if not isinstance(by_user, dict):
                continue
            try:
                room_id, joined = await self._checks.joined(origin, room)
            except (InvalidParam, Forbidden):
                continue
            users = [each for each in by_user if each in joined and server_of(each) == origin]
            receipts = self._parse(by_user, users[: MAX_RECEIPTS - len(moves)])
            moves += await self._moves(room_id, receipts)
        if moves:
            await self._writer.move(moves)

    def _parse(self, by_user: Mapping[str, Any], users: Sequence[str]) -> list[_SentReceipt]:
        now_ms = self._clock.now_ms()
        receipts = (_receipt(UserID(user_id), by_user[user_id], now_ms) for user_id in users)
        return [receipt for receipt in receipts if receipt is not None]

    async def _moves(self, room_id: RoomID, receipts: Sequence[_SentReceipt]) -> list[Move]:
        """Return the moves to events of this room, or to events that are not stored yet."""
        named = {receipt.event_id for receipt in receipts}
        roots = {receipt.thread_id for receipt in receipts} - {UNTHREADED, MAIN_TIMELINE}
        positions = await self._database.read(receipt_rows.event_positions, list(named))
        threads = await self._database.read(receipt_rows.threads_among, list(roots))
        moves = []
        for receipt in receipts:
            room, stream_id = positions.get(receipt.event_id, (room_id, None))
            is_thread = receipt.thread_id not in roots or receipt.thread_id in threads
            # Otherwise a user could have a receipt for each event of the room.
            if room == room_id and is_thread:
                moves.append(
                    Move(
                        room_id=room_id,
                        receipt_type=READ,
                        user_id=receipt.user_id,
                        event_id=receipt.event_id,
                        event_stream_id=stream_id,
                        thread_id=receipt.thread_id,
                        ts=receipt.ts,
                    )
                )
        return moves


def _receipt(user_id: UserID, value: object, now_ms: int) -> _SentReceipt | None:
    """Parse the receipt of a user; return None if it is malformed."""
    if not isinstance(value, dict):
        return None
    event_ids, details = value.get("event_ids"), value.get("data")
    if not isinstance(event_ids, list) or not event_ids:
        return None
    details = details if isinstance(details, dict) else {}
    ts, thread_id = details.get("ts"), details.get("thread_id")
    try:
        event_id = parse_event_id(event_ids[0])
        thread = UNTHREADED if thread_id is None else thread_id
        if thread not in (UNTHREADED, MAIN_TIMELINE):
            thread = parse_event_id(thread)
    except InvalidParam:
        return None
    # A bool is an int, and no other process could decode the row.
    if type(ts) is not int or not 0 <= ts <= MAX_INTEGER:
        ts = now_ms
    return _SentReceipt(user_id, event_id, thread, ts)


@attrs.frozen(eq=False)
class InboundPresence:
    """Applies m.presence EDUs."""

    _database: Database
    _writer: PresenceWriter
    _clock: Clock
    _early: EarlyPresence | None  # None: presence is disabled

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Set the presence of users who are in a room with this server. Raises: InvalidParam."""
        pushed = content.get("push")
        if not isinstance(pushed, list) or len(pushed) > MAX_PRESENCES:
            raise InvalidParam(f"push must be a list of at most {MAX_PRESENCES} entries")
        if self._early is None:
            return
        now_ms = self._clock.now_ms()
        parsed = (_presence(origin, entry, now_ms) for entry in pushed)
        rows = {row.user_id: row for row in parsed if row is not None}
        joined = await self._database.read(membership_rows.joined_among, list(rows))
        self._early.keep([rows[user_id] for user_id in rows if user_id not in joined])
        if joined:
            await self._writer.set_remote([rows[user_id] for user_id in rows if user_id in joined])


def _presence(origin: ServerName, value: object, now_ms: int) -> PresenceRow | None:
    """Parse the presence of a user; return None if it is malformed or of another server."""
    if not isinstance(value, dict):
        return None
    try:
        user_id = own_user(origin, value.get("user_id"))
    except (InvalidParam, Forbidden):
        return None
    state, status, ago = (
        value.get(field) for field in ("presence", "status_msg", "last_active_ago")
    )
    if state not in STATES:
        return None
    is_status = isinstance(status, str) and len(status) <= MAX_STATUS_CHARS and "\0" not in status
    active_ms = now_ms - ago if isinstance(ago, int) and 0 <= ago <= now_ms else 0
    return PresenceRow(
        user_id=user_id,
        state=state,
        last_active_ts=active_ms,
        status_msg=status if is_status else None,
        currently_active=value.get("currently_active") is True,
    )
