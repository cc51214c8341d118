"""Admission of requests that carry events of further servers.

Rules:

- The keys of the servers that signed the events are obtained first. A server may take as long as it
  likes to respond with its keys, so these requests wait in a gate of their own, `waiting`. Those
  whose keys are known do not enter it: however many requests name servers that do not respond,
  events of known servers are received.
- Only then the request enters the gate `running`, which requests of all servers share. The servers
  whose keys were not obtained are not asked again while it is there, in no process.

How many requests of one server are in either gate is limited outside (OriginLimits).
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

import attrs
import msgspec

from hs.core.canonical_json import JsonObject
from hs.core.ids import ServerName
from hs.core.signing.signed_json import key_ids_of
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.federation_client.server_keys import ServerKeys
from hs.services.rooms.receive.pdu_checks import latest_needs

T = TypeVar("T")


class _Content(msgspec.Struct):
    join_authorised_via_users_server: Any = None


class _SignedPdu(msgspec.Struct):
    sender: str
    origin_server_ts: int
    signatures: dict[str, dict[str, Any]]
    content: _Content
    event_id: str = ""


_SIGNED_PDU: Final = msgspec.json.Decoder(_SignedPdu)

Gate = AbstractAsyncContextManager[None]


@attrs.frozen(eq=False)
class EventAdmission:
    """Obtains keys, and runs what receives events."""

    _keys: ServerKeys
    _waiting: Gate
    _running: Gate

    async def run(
        self,
        pdus: Iterable[Sequence[bytes | JsonObject]],
        receive: Callable[[Sequence[ServerName]], Awaitable[T]],
    ) -> T:
        """Run a function once the keys for PDUs have been obtained, or not.

        `pdus` are those of each room, encoded or not. The argument of the function are the servers
        whose keys are lacking. Raises: LimitExceeded.
        """
        needs = await self._keys.lacking(_needs_of(pdus))
        lacking: Collection[ServerName] = ()
        if needs:
            async with self._waiting:
                found = await self._keys.keys_for(needs)
            lacking = {need.server for need in needs if not found[need]}
            self._keys.note_lacking(lacking)
        async with self._running:
            return await receive(sorted(lacking))


def _needs_of(pdus: Iterable[Sequence[bytes | JsonObject]]) -> set[VerifyKeyRequest]:
    """Return all that PduChecker may look up for PDUs of several rooms, by any room version."""
    needs: set[VerifyKeyRequest] = set()
    for of_room in pdus:
        signed = _signers_of(of_room)
        needs.update(signed, latest_needs(signed).values())
    return needs


def _signers_of(pdus: Iterable[bytes | JsonObject]) -> list[VerifyKeyRequest]:
    needs = []
    for encoded in pdus:
        try:
            if isinstance(encoded, bytes):
                pdu = _SIGNED_PDU.decode(encoded)
            else:
                pdu = msgspec.convert(encoded, _SignedPdu)
        except (msgspec.MsgspecError, RecursionError):
            continue  # it will be refused
        signed = {"signatures": pdu.signatures}
        ids = (pdu.sender, pdu.event_id, pdu.content.join_authorised_via_users_server)
        for name in {each.partition(":")[2] for each in ids if isinstance(each, str)}:
            if name in pdu.signatures:
                server = ServerName(name)
                key_ids = frozenset(key_ids_of(signed, server))
                needs.append(VerifyKeyRequest(server, key_ids, pdu.origin_server_ts))
    return needs
