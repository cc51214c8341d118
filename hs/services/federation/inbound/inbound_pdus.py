"""PDUs of other servers, received by the process that owns their room.

Rules:

- When a call returns without an error, each PDU is stored: as an event, or in `inbound_pdus`.
- A rejected event is stored, so its result is not an error: later events may cite it.
- A PDU that can be appended is appended, even while others of its room wait: a server that cites
  events that no server has does not delay others.
- Only PDUs that are signed, and of a room that this server is in or is joining, ever wait.

Spec: server-server API, Transactions; Checks performed on receipt of a PDU.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.errors import Forbidden, InvalidEvent, NotFound
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName
from hs.core.versions import ROOM_VERSIONS, RoomVersion
from hs.repl.rpc import rpc
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.inbound.extremity_limits import ExtremityLimits
from hs.services.federation.inbound.pdu_queues import PduQueues
from hs.services.federation_client.server_keys import ServerKeys
from hs.services.rooms.receive.event_receiver import PduOutcome, PduVerdict, RoomReceiver
from hs.services.rooms.receive.expected_rooms import ExpectedRooms
from hs.services.rooms.receive.pdu_checks import PduChecker
from hs.services.rooms.receive.withdrawals import InviteWithdrawals
from hs.services.rooms.store.server_acls import ServerAcls
from hs.storage.database import Database
from hs.storage.rooms import rooms as room_rows

log = logging.getLogger(__name__)

RECEIVE_TIMEOUT_S: Final = 60.0
MAX_ORIGINS_COUNTED: Final = 100
OTHER_ORIGINS: Final = "other"

_COUNTED_AS_REFUSED: Final = frozenset({PduOutcome.REFUSED, PduOutcome.REJECTED})


@attrs.frozen
class PduResult:
    """The result for one PDU; `error` is empty if it was stored. Some PDUs have no event ID."""

    event_id: EventID | None
    error: str = ""


class InboundPdus(Protocol):
    """Receives PDUs of other servers."""

    @rpc(timeout_s=RECEIVE_TIMEOUT_S)
    async def receive(
        self,
        room_id: RoomID,
        origin: ServerName,
        pdus: list[bytes],
        without_keys: list[ServerName],
    ) -> list[PduResult]:
        """Store PDUs of a room that a server has sent; return their results, in the same order.

        The servers `without_keys` were asked for their keys in vain, and are not asked again.
        Idempotent. Raises: LimitExceeded, if too many PDUs of this server wait in the room;
        MatrixError 503, may be retried.
        """
        ...


@attrs.define(eq=False)
class InboundPduCounts:
    """Counters for metrics: PDUs by outcome, and refused or rejected PDUs by origin."""

    outcomes: Counter[str] = attrs.Factory(Counter)
    refused: Counter[str] = attrs.Factory(Counter)

    def add(self, origin: ServerName, outcome: str, is_refused: bool) -> None:
        """Count a PDU."""
        self.outcomes[outcome] += 1
        if is_refused:
            is_counted = origin in self.refused or len(self.refused) < MAX_ORIGINS_COUNTED
            self.refused[origin if is_counted else OTHER_ORIGINS] += 1


@attrs.frozen(eq=False)
class OwnedInboundPdus:
    """The InboundPdus of the process that owns the rooms."""

    _database: Database
    _receiver: RoomReceiver
    _access: ServerAccess
    _acls: ServerAcls
    _queues: PduQueues
    _keys: ServerKeys = attrs.field(kw_only=True)
    _limits: ExtremityLimits = attrs.field(kw_only=True)
    _withdrawals: InviteWithdrawals = attrs.field(kw_only=True)
    _expected: ExpectedRooms = attrs.field(kw_only=True)
    _checker: PduChecker = attrs.field(kw_only=True)
    counts: InboundPduCounts = attrs.Factory(InboundPduCounts)

    async def receive(
        self,
        room_id: RoomID,
        origin: ServerName,
        pdus: list[bytes],
        without_keys: list[ServerName],
    ) -> list[PduResult]:
        """Store PDUs of a room; see InboundPdus."""
        self._keys.note_lacking(without_keys)
        if not await self._access.is_here(room_id):
            ends = await self._withdrawals.receive(room_id, pdus)
            rules = self._expected.rules_of(room_id)
            if rules is not None:
                return await self._keep(room_id, origin, pdus, rules)
            reason = "This server is not in the room"
            return await self._refuse_all(room_id, origin, pdus, reason, but=ends)
        try:
            await self._acls.check(room_id, origin)
            received = await self._receiver.receive(room_id, pdus, [], {})
        except (Forbidden, NotFound) as fault:
            return await self._refuse_all(room_id, origin, pdus, fault.message)
        waiting = {
            verdict.event_id: pdu
            for verdict, pdu in zip(received.verdicts, pdus, strict=True)
            if verdict.outcome is PduOutcome.WAITING and verdict.event_id is not None
        }
        if waiting:
            await self._queues.add(room_id, origin, waiting)
        self._queues.note_received(
            room_id,
            {
                verdict.event_id
                for verdict in received.verdicts
                if verdict.outcome is not PduOutcome.WAITING and verdict.event_id is not None
            },
        )
        self._limits.note(room_id)
        return self._results(room_id, origin, received.verdicts)

    async def _keep(
        self, room_id: RoomID, origin: ServerName, pdus: list[bytes], rules: RoomVersion
    ) -> list[PduResult]:
        """Keep the PDUs of a room that this server is joining until it has received the room."""
        checked = await self._checker.check(room_id, rules, pdus)
        waiting = {
            event.event_id: pdu
            for event, pdu in zip(checked, pdus, strict=True)
            if isinstance(event, Event)
        }
        if waiting:
            await self._queues.add(room_id, origin, waiting)
        verdicts = [
            PduVerdict(pdu.event_id, PduOutcome.WAITING)
            if isinstance(pdu, Event)
            else PduVerdict(pdu.event_id, PduOutcome.REFUSED, pdu.reason)
            for pdu in checked
        ]
        return self._results(room_id, origin, verdicts)

    def _results(
        self, room_id: RoomID, origin: ServerName, verdicts: Sequence[PduVerdict]
    ) -> list[PduResult]:
        self._record(room_id, origin, verdicts)
        return [
            PduResult(
                verdict.event_id, verdict.reason if verdict.outcome is PduOutcome.REFUSED else ""
            )
            for verdict in verdicts
        ]

    async def _refuse_all(
        self,
        room_id: RoomID,
        origin: ServerName,
        pdus: Sequence[bytes],
        reason: str,
        but: Collection[EventID] = (),
    ) -> list[PduResult]:
        versions = await self._database.read(room_rows.versions, [room_id])
        event_ids = [_event_id(pdu, versions.get(room_id)) for pdu in pdus]
        verdicts = [
            PduVerdict(event_id, PduOutcome.ACCEPTED)
            if event_id in but
            else PduVerdict(event_id, PduOutcome.REFUSED, reason)
            for event_id in event_ids
        ]
        self._record(room_id, origin, verdicts)
        return [PduResult(verdict.event_id, verdict.reason) for verdict in verdicts]

    def _record(self, room_id: RoomID, origin: ServerName, verdicts: Sequence[PduVerdict]) -> None:
        reasons = []
        for verdict in verdicts:
            is_refused = verdict.outcome in _COUNTED_AS_REFUSED
            self.counts.add(origin, verdict.outcome.value, is_refused)
            if verdict.outcome is PduOutcome.REJECTED:
                reasons.append(verdict.reason)
        # Those that are refused are reported once for the whole transaction.
        if reasons:
            text = "rejected %d PDUs of %s in room %s, the first one because: %.200s"
            log.info(text, len(reasons), origin, room_id, reasons[0])


def _event_id(encoded: bytes, version: str | None) -> EventID | None:
    """Return the ID of a PDU that is not stored; None if it cannot be computed."""
    pdu: dict[str, Any] = orjson.loads(encoded)
    rules = ROOM_VERSIONS.get(version or "")
    if rules is None:
        event_id = pdu.get("event_id")
        return EventID(event_id) if isinstance(event_id, str) else None
    try:
        return parse_pdu(pdu, rules).event_id
    except InvalidEvent:
        return None
