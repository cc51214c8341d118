"""Transactions to application services: their composition, and delivery until confirmed.

Rules:

- A service receives one transaction at a time. The transaction is stored verbatim before it is
  sent; after a restart the same bytes are sent again under the same ID.
- Confirming a transaction deletes it, the waiting events and the to-device messages in it, in one
  database transaction.
- Events and to-device messages are read from tables. Everything else comes from memory and is
  removed from there when the transaction is composed. Receipts and device lists can be found again:
  the position up to which a stream has been sent is stored with the transaction, but only if
  nothing of that stream is left in memory. Typing and presence may be lost in a crash.
- `has_events` is cleared before the events are read, and `wake` is replaced before a transaction is
  composed, so that additions in the meantime are not missed.
- A failed delivery is retried with a backoff, or as soon as a ping reaches the service.
- A database error ends the duty, and its next run starts from what is stored.

Spec: application service API, Pushing events.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import PresenceRow
from hs.lib.backoff import Backoff
from hs.lib.clock import Clock
from hs.lib.http_client import HttpFault
from hs.services.appservices.appservice_client import AppserviceClient, AppserviceRoute
from hs.services.appservices.ephemeral_queue import OutgoingQueue, render_receipts, take_oldest
from hs.services.rooms.read.invite_state import InviteStates
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.appservices import transactions as storage
from hs.storage.appservices.transactions import NewTransaction, StoredTransaction
from hs.storage.database import Database
from hs.storage.devices import one_time_keys, to_device

MAX_EVENTS: Final = 100
MAX_EPHEMERAL: Final = 100
MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 2 * 1024 * 1024
"""Limit on the events of a transaction; a single event may be larger."""

ANSWER_S: Final = 60.0
MIN_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
ANY_POSITION: Final = 2**62

UNSTABLE_EPHEMERAL: Final = "de.sorunome.msc2409.ephemeral"
UNSTABLE_TO_DEVICE: Final = "de.sorunome.msc2409.to_device"
DEVICE_LISTS: Final = "org.matrix.msc3202.device_lists"
KEY_COUNTS: Final = (
    "org.matrix.msc3202.device_one_time_keys_count",
    "org.matrix.msc3202.device_one_time_key_counts",
)
FALLBACK_KEYS: Final = "org.matrix.msc3202.device_unused_fallback_key_types"

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Parts:
    """A transaction that is being composed."""

    body: dict[str, Any] = attrs.Factory(lambda: {"events": []})
    last_number: int = 0
    messages: list[tuple[str, str, int]] = attrs.Factory(list)

    def __bool__(self) -> bool:
        return self.last_number > 0 or len(self.body) > 1


@attrs.frozen(eq=False, kw_only=True)
class TransactionMaker:
    """The composition of transactions."""

    database: Database
    clock: Clock
    events: EventStore
    rendering: EventRenderer
    invites: InviteStates

    async def make(self, outgoing: OutgoingQueue) -> StoredTransaction | None:
        """Compose and store a transaction; return None if there is nothing to send."""
        parts = _Parts()
        if outgoing.has_events:
            await self._add_events(outgoing, parts)
        self._add_ephemeral(outgoing, parts)
        await self._add_messages(outgoing, parts)
        await self._add_devices(outgoing, parts)
        if not parts:
            return None
        new = NewTransaction(
            parts.last_number,
            orjson.dumps(parts.body),
            parts.messages,
            [(stream, str(position)) for stream, position in _sent_positions(outgoing).items()],
        )
        return await self.database.write(storage.store_transaction, outgoing.service.id, new)

    async def _add_events(self, outgoing: OutgoingQueue, parts: _Parts) -> None:
        outgoing.has_events = False
        service = outgoing.service
        waiting = await self.database.read(storage.list_pending, service.id, MAX_EVENTS)
        events = await self.events.get([EventID(entry.event_id) for entry in waiting])
        viewer = self.rendering.viewer(Requester(service.sender, appservice_id=service.id))
        await self.rendering.prepare(list(events.values()), viewer)
        size = 0
        for entry in waiting:
            stored = events.get(EventID(entry.event_id))
            if stored is not None:
                rendered = self.rendering.timeline_event(stored, viewer, None, room_id=True)
                rendered = await self._with_invite_state(outgoing, stored, rendered)
                size += len(rendered)
                if size > MAX_BYTES and parts.body["events"]:
                    break
                parts.body["events"].append(orjson.Fragment(rendered))
            parts.last_number = entry.number
        if waiting and (parts.last_number < waiting[-1].number or len(waiting) == MAX_EVENTS):
            outgoing.has_events = True

    async def _with_invite_state(
        self, outgoing: OutgoingQueue, stored: StoredEvent, rendered: bytes
    ) -> bytes:
        event = stored.event
        if event.type != event_types.MEMBER or event.content.get("membership") != "invite":
            return rendered
        user_id = event.state_key
        if user_id is None or not outgoing.service.owns_user(user_id):
            return rendered
        state = await self.invites.invite_state(RoomID(event.room_id), UserID(user_id))
        content = orjson.loads(rendered)
        content.setdefault("unsigned", {})["invite_room_state"] = list(state)
        return orjson.dumps(content)

    def _add_ephemeral(self, outgoing: OutgoingQueue, parts: _Parts) -> None:
        typing = take_oldest(outgoing.typing, MAX_EPHEMERAL)
        events: list[dict[str, Any]] = [
            {"type": "m.typing", "room_id": room_id, "content": {"user_ids": user_ids}}
            for room_id, user_ids in typing
        ]
        events += render_receipts(take_oldest(outgoing.receipts, MAX_EPHEMERAL))
        now_ms = self.clock.now_ms()
        events += [
            _presence(row, now_ms) for _, row in take_oldest(outgoing.presence, MAX_EPHEMERAL)
        ]
        if events:
            parts.body["ephemeral"] = parts.body[UNSTABLE_EPHEMERAL] = events

    async def _add_messages(self, outgoing: OutgoingQueue, parts: _Parts) -> None:
        messages: list[dict[str, Any]] = []
        for key, _ in take_oldest(outgoing.inboxes, MAX_MESSAGES):
            limit = MAX_MESSAGES - len(messages)
            if limit <= 0:
                outgoing.add(outgoing.inboxes, key, None)
                continue
            user_id, device_id = key
            pending = await self.database.read(
                to_device.pending_messages, *key, 0, ANY_POSITION, limit
            )
            messages += [
                {**orjson.loads(message), "to_user_id": user_id, "to_device_id": device_id}
                for _, message in pending
            ]
            if pending:
                parts.messages.append((user_id, device_id, pending[-1][0]))
                outgoing.counts[key] = None
            if len(pending) == limit:
                outgoing.add(outgoing.inboxes, key, None)
        if messages:
            parts.body[UNSTABLE_TO_DEVICE] = messages

    async def _add_devices(self, outgoing: OutgoingQueue, parts: _Parts) -> None:
        changed = [user_id for user_id, _ in take_oldest(outgoing.changed, MAX_EPHEMERAL)]
        left = [user_id for user_id, _ in take_oldest(outgoing.left, MAX_EPHEMERAL)]
        if changed or left:
            parts.body[DEVICE_LISTS] = {"changed": changed, "left": left}
        counts: dict[str, dict[str, Mapping[str, int]]] = {}
        unused: dict[str, dict[str, Sequence[str]]] = {}
        for (user_id, device_id), _ in take_oldest(outgoing.counts, MAX_EPHEMERAL):
            stored_counts = await self.database.read(one_time_keys.counts, user_id, device_id)
            unused_types = await self.database.read(
                one_time_keys.unused_fallback_algorithms, user_id, device_id
            )
            counts.setdefault(user_id, {})[device_id] = {"signed_curve25519": 0, **stored_counts}
            unused.setdefault(user_id, {})[device_id] = unused_types
        if counts:
            for name in KEY_COUNTS:
                parts.body[name] = counts
            parts.body[FALLBACK_KEYS] = unused


def _sent_positions(outgoing: OutgoingQueue) -> dict[str, int]:
    """Return the positions up to which streams are sent: those with nothing left in memory."""
    has_entries = {
        storage.RECEIPTS: bool(outgoing.receipts),
        storage.DEVICE_LISTS: bool(outgoing.changed),
    }
    return {
        stream: position
        for stream, position in outgoing.reached.items()
        if not has_entries.get(stream)
    }


def _presence(row: PresenceRow, now_ms: int) -> dict[str, Any]:
    content: dict[str, Any] = {"presence": row.state}
    if row.last_active_ts:
        content["last_active_ago"] = max(0, now_ms - row.last_active_ts)
    if row.status_msg is not None:
        content["status_msg"] = row.status_msg
    if row.state == "online":
        content["currently_active"] = row.currently_active
    return {"type": "m.presence", "sender": row.user_id, "content": content}


@attrs.frozen(eq=False)
class TransactionDelivery:
    """The delivery of transactions to one service, one after the other."""

    _outgoing: OutgoingQueue
    _maker: TransactionMaker
    _calls: AppserviceClient
    _database: Database

    async def run(self) -> None:
        """Deliver transactions until cancelled."""
        service_id = self._outgoing.service.id
        unconfirmed = await self._database.read(storage.unconfirmed_transaction, service_id)
        while True:
            transaction = unconfirmed or await self._next()
            unconfirmed = None
            await self._deliver(transaction)
            await self._database.write(storage.delete_confirmed, service_id, transaction)

    async def _next(self) -> StoredTransaction:
        while True:
            self._outgoing.wake = trio.Event()
            transaction = await self._maker.make(self._outgoing)
            if transaction is not None:
                return transaction
            await self._outgoing.wake.wait()

    async def _deliver(self, transaction: StoredTransaction) -> None:
        backoff = Backoff(MIN_PAUSE_S, MAX_PAUSE_S)
        while True:
            self._outgoing.reachable = trio.Event()
            error = await self._send(transaction)
            if error is None:
                if backoff.failures:
                    log.info("appservice %s accepts transactions again", self._outgoing.service.id)
                return
            pause_s = backoff.next_s()
            log.warning(
                "transaction to appservice %s failed (ID %d), retrying in %.1f s: %s",
                self._outgoing.service.id,
                transaction.txn_id,
                pause_s,
                error,
            )
            with trio.move_on_after(pause_s):
                await self._outgoing.reachable.wait()

    async def _send(self, transaction: StoredTransaction) -> str | None:
        """Send a transaction once; return an error message, or None if it was accepted."""
        path = f"/transactions/{transaction.txn_id}"
        try:
            answer = await self._calls.send(
                self._outgoing.service,
                "PUT",
                AppserviceRoute(path, legacy_path=path),
                body=transaction.body,
                timeout_s=ANSWER_S,
            )
        except HttpFault as error:
            return error.message
        return (
            None if 200 <= answer.status < 300 else f"the service returned status {answer.status}"
        )
