"""Transactions for application services: what goes into one, and sending it until it arrived.

A transaction is stored word for word before it is sent, and forgotten in the commit that forgets
what was in it: whatever happens to the process, the service gets the same one again.

Spec: application service API, Pushing events.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.backoff import Backoff
from hs.lib.clock import Clock
from hs.lib.http_client import HttpFault
from hs.repl.rows import PresenceRow
from hs.services.appservices.appservice_client import Route, ServiceCalls
from hs.services.appservices.ephemeral_queue import Outgoing, rendered_receipts, take
from hs.services.rooms.read.rendering import Rendering
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.appservices import transactions as storage
from hs.storage.appservices.transactions import NewTransaction, Transaction
from hs.storage.database import Database
from hs.storage.devices import one_time_keys, to_device

MAX_EVENTS: Final = 100
MAX_EPHEMERAL: Final = 100
MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 2 * 1024 * 1024
"""Of events in one transaction, unless one alone is larger."""

ANSWER_S: Final = 60.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
ANY_POSITION: Final = 2**62

OLD_EPHEMERAL: Final = "de.sorunome.msc2409.ephemeral"
OLD_TO_DEVICE: Final = "de.sorunome.msc2409.to_device"
DEVICE_LISTS: Final = "org.matrix.msc3202.device_lists"
KEY_COUNTS: Final = (
    "org.matrix.msc3202.device_one_time_keys_count",
    "org.matrix.msc3202.device_one_time_key_counts",
)
FALLBACK_KEYS: Final = "org.matrix.msc3202.device_unused_fallback_key_types"

log = logging.getLogger(__name__)


class Invites(Protocol):
    """Shows what an invited user is told of the room."""

    async def invite_state(self, room_id: RoomID, user_id: UserID) -> Sequence[Any]:
        """Give stripped state."""
        ...


@attrs.define(eq=False)
class _Parts:
    """A transaction in the making."""

    body: dict[str, Any] = attrs.Factory(lambda: {"events": []})
    last_number: int = 0
    messages: list[tuple[str, str, int]] = attrs.Factory(list)

    def __bool__(self) -> bool:
        return self.last_number > 0 or len(self.body) > 1


@attrs.frozen(eq=False, kw_only=True)
class TransactionMaker:
    """Puts transactions together and stores them."""

    database: Database
    clock: Clock
    events: EventStore
    rendering: Rendering
    invites: Invites

    async def make(self, outgoing: Outgoing) -> Transaction | None:
        """Store a transaction of what waits; None when nothing does."""
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
            [(stream, str(at)) for stream, at in _reached(outgoing).items()],
        )
        return await self.database.write(storage.begin, outgoing.service.id, new)

    async def _add_events(self, outgoing: Outgoing, parts: _Parts) -> None:
        outgoing.has_events = False
        service = outgoing.service
        waiting = await self.database.read(storage.first_waiting, service.id, MAX_EVENTS)
        found = await self.events.get([EventID(one.event_id) for one in waiting])
        viewer = self.rendering.viewer(Requester(service.sender, appservice_id=service.id))
        await self.rendering.prepare(list(found.values()), viewer)
        size = 0
        for one in waiting:
            stored = found.get(EventID(one.event_id))
            if stored is not None:
                event = self.rendering.timeline_event(stored, viewer, None, room_id=True)
                event = await self._with_invite_state(outgoing, stored, event)
                size += len(event)
                if size > MAX_BYTES and parts.body["events"]:
                    break
                parts.body["events"].append(orjson.Fragment(event))
            parts.last_number = one.number
        if waiting and (parts.last_number < waiting[-1].number or len(waiting) == MAX_EVENTS):
            outgoing.has_events = True

    async def _with_invite_state(
        self, outgoing: Outgoing, stored: StoredEvent, rendered: bytes
    ) -> bytes:
        event = stored.event
        if event.type != event_types.MEMBER or event.content.get("membership") != "invite":
            return rendered
        user_id = event.state_key
        if user_id is None or not outgoing.service.owns_user(user_id):
            return rendered
        state = await self.invites.invite_state(RoomID(event.room_id), UserID(user_id))
        whole = orjson.loads(rendered)
        whole.setdefault("unsigned", {})["invite_room_state"] = list(state)
        return orjson.dumps(whole)

    def _add_ephemeral(self, outgoing: Outgoing, parts: _Parts) -> None:
        typing = take(outgoing.typing, MAX_EPHEMERAL)
        found: list[dict[str, Any]] = [
            {"type": "m.typing", "room_id": room_id, "content": {"user_ids": user_ids}}
            for room_id, user_ids in typing
        ]
        found += rendered_receipts(take(outgoing.receipts, MAX_EPHEMERAL))
        now_ms = self.clock.now_ms()
        found += [_presence(row, now_ms) for _, row in take(outgoing.presence, MAX_EPHEMERAL)]
        if found:
            parts.body["ephemeral"] = parts.body[OLD_EPHEMERAL] = found

    async def _add_messages(self, outgoing: Outgoing, parts: _Parts) -> None:
        messages: list[dict[str, Any]] = []
        for key, _ in take(outgoing.inboxes, MAX_MESSAGES):
            room = MAX_MESSAGES - len(messages)
            if room <= 0:
                outgoing.add(outgoing.inboxes, key, None)
                continue
            user_id, device_id = key
            found = await self.database.read(to_device.pending, *key, 0, ANY_POSITION, room)
            messages += [
                {**orjson.loads(message), "to_user_id": user_id, "to_device_id": device_id}
                for _, message in found
            ]
            if found:
                parts.messages.append((user_id, device_id, found[-1][0]))
                outgoing.counts[key] = None
            if len(found) == room:
                outgoing.add(outgoing.inboxes, key, None)
        if messages:
            parts.body[OLD_TO_DEVICE] = messages

    async def _add_devices(self, outgoing: Outgoing, parts: _Parts) -> None:
        changed = [user_id for user_id, _ in take(outgoing.changed, MAX_EPHEMERAL)]
        left = [user_id for user_id, _ in take(outgoing.left, MAX_EPHEMERAL)]
        if changed or left:
            parts.body[DEVICE_LISTS] = {"changed": changed, "left": left}
        counts: dict[str, dict[str, Mapping[str, int]]] = {}
        unused: dict[str, dict[str, Sequence[str]]] = {}
        for (user_id, device_id), _ in take(outgoing.counts, MAX_EPHEMERAL):
            counted = await self.database.read(one_time_keys.counts, user_id, device_id)
            kept = await self.database.read(one_time_keys.unused_fallbacks, user_id, device_id)
            counts.setdefault(user_id, {})[device_id] = {"signed_curve25519": 0, **counted}
            unused.setdefault(user_id, {})[device_id] = kept
        if counts:
            for name in KEY_COUNTS:
                parts.body[name] = counts
            parts.body[FALLBACK_KEYS] = unused


def _reached(outgoing: Outgoing) -> dict[str, int]:
    """Tell how far streams are sent: only as far as nothing of them is left in memory."""
    left = {
        storage.RECEIPTS: bool(outgoing.receipts),
        storage.DEVICE_LISTS: bool(outgoing.changed),
    }
    return {stream: at for stream, at in outgoing.reached.items() if not left.get(stream)}


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
class Delivery:
    """Sends one service its transactions, one after the other."""

    _outgoing: Outgoing
    _maker: TransactionMaker
    _calls: ServiceCalls
    _database: Database

    async def run(self) -> None:
        """Send for ever."""
        service_id = self._outgoing.service.id
        waiting = await self._database.read(storage.transaction, service_id)
        while True:
            transaction = waiting or await self._next()
            waiting = None
            await self._deliver(transaction)
            await self._database.write(storage.confirm, service_id, transaction)

    async def _next(self) -> Transaction:
        while True:
            self._outgoing.wake = trio.Event()
            transaction = await self._maker.make(self._outgoing)
            if transaction is not None:
                return transaction
            await self._outgoing.wake.wait()

    async def _deliver(self, transaction: Transaction) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            self._outgoing.reachable = trio.Event()
            fault = await self._send(transaction)
            if fault is None:
                if backoff.failures:
                    log.info("appservice %s takes transactions again", self._outgoing.service.id)
                return
            pause_s = backoff.next_s()
            log.warning(
                "appservice %s did not take transaction %d, again in %.1f s: %s",
                self._outgoing.service.id,
                transaction.txn_id,
                pause_s,
                fault,
            )
            with trio.move_on_after(pause_s):
                await self._outgoing.reachable.wait()

    async def _send(self, transaction: Transaction) -> str | None:
        """Send once; tell what went wrong."""
        path = f"/transactions/{transaction.txn_id}"
        try:
            answer = await self._calls.send(
                self._outgoing.service,
                "PUT",
                Route(path, old_path=path),
                body=transaction.body,
                timeout_s=ANSWER_S,
            )
        except HttpFault as error:
            return error.message
        return None if 200 <= answer.status < 300 else f"it answered {answer.status}"
