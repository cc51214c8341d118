"""Transactions of other servers.

Rules:

- A transaction is acknowledged when each of its PDUs is stored, and each of its EDUs that must not
  be lost. If storing fails, so does the request, and the other server sends the transaction again.
- Nothing is remembered of a transaction: PDUs that are stored already are not stored again, nor are
  to-device messages, and repeating any other EDU changes nothing.
- Each PDU and each EDU counts on its own; a malformed one changes nothing for the others.

Spec: server-server API, Transactions.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.edus import parse_edu
from hs.core.errors import BadJson, InvalidParam
from hs.core.ids import EventID, RoomID, ServerName, parse_room_id
from hs.services.federation.inbound.edus import InboundEdus
from hs.services.federation.inbound.room_inbox import RoomInbox

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100

Results = dict[EventID, dict[str, str]]


@attrs.frozen(eq=False)
class InboundTransactions:
    """Takes the transactions of other servers, in any process."""

    _inbox: RoomInbox
    _edus: InboundEdus

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> Results:
        """Store the PDUs and EDUs of a transaction; return the result of each PDU by event ID.

        Raises: BadJson; LimitExceeded, if too many PDUs of this server wait; MatrixError 503.
        """
        pdus = _list_in(content, "pdus", MAX_PDUS)
        edus = _list_in(content, "edus", MAX_EDUS)
        results: Results = {}
        by_room = _by_room(origin, pdus)
        if len(by_room) == 1:
            # The usual case.
            await self._deliver(origin, *next(iter(by_room.items())), results)
        elif by_room:
            async with trio.open_nursery() as nursery:
                for room_id, room_pdus in by_room.items():
                    nursery.start_soon(self._deliver, origin, room_id, room_pdus, results)
        for value in edus:
            edu = parse_edu(value)
            if edu is not None:
                await self._edus.receive(origin, edu)
        return results

    async def _deliver(
        self, origin: ServerName, room_id: RoomID, pdus: list[bytes], results: Results
    ) -> None:
        for delivered in await self._inbox.deliver(room_id, origin, pdus):
            if delivered.event_id is not None:
                error = delivered.error
                results[delivered.event_id] = {"error": error} if error else {}


def _list_in(content: Mapping[str, Any], field: str, most: int) -> Sequence[Any]:
    values = content.get(field, [])
    if not isinstance(values, list) or len(values) > most:
        raise BadJson(f"{field} must be a list of at most {most} entries")
    return values


def _by_room(origin: ServerName, pdus: Sequence[Any]) -> dict[RoomID, list[bytes]]:
    """Return the PDUs of each room; those without a room ID are dropped, as they have no event ID.

    The create event of a room of version 12 has none, but nobody can be in the room before it.
    """
    by_room: dict[RoomID, list[bytes]] = {}
    dropped: Counter[str] = Counter()
    for pdu in pdus:
        try:
            room_id = parse_room_id(pdu.get("room_id") if isinstance(pdu, dict) else None)
            by_room.setdefault(room_id, []).append(orjson.dumps(pdu))
        except (InvalidParam, orjson.JSONEncodeError) as fault:
            dropped[str(fault)] += 1
    for reason, count in dropped.items():
        log.info("dropped %d PDUs of %s: %s", count, origin, reason)
    return by_room
