"""Transactions of other servers.

Rules:

- The keys of its PDUs are obtained before it is admitted (EventAdmission).
- A transaction is acknowledged when each of its PDUs is stored, and each of its EDUs that must not
  be lost. If storing fails, so does the request, and the other server sends the transaction again.
- Nothing is remembered of a transaction: PDUs that are stored already are not stored again, nor are
  to-device messages, and repeating any other EDU changes nothing.
- Each PDU and each EDU is processed by itself; a malformed one does not affect the others. A
  transaction is sent again until it is accepted, so nothing that a user of a room can send may have
  it refused as a whole: neither deeply nested PDUs nor many values.

Spec: server-server API, Transactions.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import msgspec
import trio

from hs.core.canonical_json import parse_shallow_json
from hs.core.edus import Edu, parse_edu
from hs.core.errors import BadJson, InvalidParam, MatrixError
from hs.core.ids import EventID, RoomID, ServerName, parse_room_id
from hs.services.federation.access.event_admission import EventAdmission
from hs.services.federation.inbound.edus import InboundEdus
from hs.services.federation.inbound.inbound_pdus import InboundPdus

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_ERROR_CHARS: Final = 500

Results = dict[EventID, dict[str, str]]


class _Transaction(msgspec.Struct):
    pdus: list[msgspec.Raw] = []
    edus: list[msgspec.Raw] = []


class _PduHead(msgspec.Struct):
    room_id: str


_TRANSACTION: Final = msgspec.json.Decoder(_Transaction)
_PDU_HEAD: Final = msgspec.json.Decoder(_PduHead)


@attrs.frozen(eq=False)
class InboundTransactions:
    """Receives the transactions of other servers, in any process."""

    _pdus: InboundPdus
    _edus: InboundEdus
    _admission: EventAdmission

    async def receive(self, origin: ServerName, content: bytes) -> Results:
        """Store the PDUs and EDUs of a transaction; return the result of each PDU by event ID.

        Raises: BadJson; LimitExceeded, if too many PDUs of this server wait; MatrixError 503.
        """
        transaction = _parse(content)
        by_room = _by_room(origin, transaction.pdus)

        async def receive(without_keys: Sequence[ServerName]) -> Results:
            results = await self._receive_rooms(origin, by_room, without_keys)
            for raw in transaction.edus:
                edu = _edu_in(bytes(raw))
                if edu is not None:
                    await self._edus.receive(origin, edu)
            return results

        return await self._admission.run(by_room.values(), receive)

    async def _receive_rooms(
        self,
        origin: ServerName,
        by_room: Mapping[RoomID, list[bytes]],
        without_keys: Sequence[ServerName],
    ) -> Results:
        results: Results = {}

        async def receive(room_id: RoomID) -> None:
            received = await self._pdus.receive(
                room_id, origin, by_room[room_id], list(without_keys)
            )
            for result in received:
                if result.event_id is not None:
                    error = result.error[:MAX_ERROR_CHARS]
                    results[result.event_id] = {"error": error} if error else {}

        if len(by_room) == 1:
            # The usual case.
            await receive(next(iter(by_room)))
        elif by_room:
            async with trio.open_nursery() as nursery:
                for room_id in by_room:
                    nursery.start_soon(receive, room_id)
        errors = [result["error"] for result in results.values() if result]
        if errors:
            text = "refused %d PDUs of %s, the first one because: %.200s"
            log.info(text, len(errors), origin, errors[0])
        return results


def _parse(content: bytes) -> _Transaction:
    """Split a transaction into its PDUs and EDUs. Raises: BadJson."""
    try:
        transaction = _TRANSACTION.decode(content)
    except (msgspec.MsgspecError, RecursionError) as fault:
        raise BadJson(f"The transaction is malformed: {fault}") from None
    for field, values, most in (
        ("pdus", transaction.pdus, MAX_PDUS),
        ("edus", transaction.edus, MAX_EDUS),
    ):
        if len(values) > most:
            raise BadJson(f"{field} must be a list of at most {most} entries")
    return transaction


def _by_room(origin: ServerName, pdus: Sequence[msgspec.Raw]) -> dict[RoomID, list[bytes]]:
    """Return the PDUs of each room; those without a room ID are dropped, as they have no event ID.

    The create event of a room of version 12 has none, but nobody can be in the room before it.
    """
    by_room: dict[RoomID, list[bytes]] = {}
    dropped = 0
    for pdu in pdus:
        try:
            room_id = parse_room_id(_PDU_HEAD.decode(pdu).room_id)
        except (msgspec.MsgspecError, RecursionError, InvalidParam):
            dropped += 1
        else:
            by_room.setdefault(room_id, []).append(bytes(pdu))
    if dropped:
        log.info("dropped %d PDUs of %s: they have no valid room ID", dropped, origin)
    return by_room


def _edu_in(raw: bytes) -> Edu | None:
    try:
        return parse_edu(parse_shallow_json(raw))
    except MatrixError:
        return None
