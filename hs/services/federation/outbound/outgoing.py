"""Outgoing PDUs, and the encoding of transactions."""

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from hs.core.canonical_json import canonical_json
from hs.core.ids import EventID, ServerName
from hs.lib.clock import Clock
from hs.services.federation_client.client import segment

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_EDU_BYTES: Final = 1 << 20

_CACHED_BODIES: Final = 32
"""Most destinations of an event are sent the same body."""


@attrs.frozen(eq=False)
class OutgoingPdu:
    """An event to send; `pdu` is its canonical JSON, shared by all destinations."""

    stream_id: int
    event_id: EventID
    pdu: bytes


class TransactionBody(NamedTuple):
    """The URI and the canonical JSON of a transaction."""

    uri: str
    body: bytes


@attrs.define(eq=False)
class TransactionEncoder:
    """Encodes transactions. The same events have the same transaction ID after a restart."""

    _server_name: ServerName
    _clock: Clock
    _recent: OrderedDict[tuple[bytes, ...], TransactionBody] = attrs.Factory(OrderedDict)

    def encode(self, pdus: Sequence[bytes], edus: Sequence[bytes]) -> TransactionBody:
        """Encode a transaction; PDUs and EDUs are canonical JSON."""
        if not pdus:
            # The same EDU may be sent again, so its transactions differ by their time.
            return self._encode(pdus, edus)
        key = (*pdus, b"", *edus)
        encoded = self._recent.get(key)
        if encoded is None:
            encoded = self._recent[key] = self._encode(pdus, edus)
            if len(self._recent) > _CACHED_BODIES:
                self._recent.popitem(last=False)
        return encoded

    def _encode(self, pdus: Sequence[bytes], edus: Sequence[bytes]) -> TransactionBody:
        now_ms = self._clock.now_ms()
        joined_edus, joined_pdus = b",".join(edus), b",".join(pdus)
        head = b'{"edus":[' + joined_edus + b"]," if edus else b"{"
        rest = canonical_json({"origin": self._server_name, "origin_server_ts": now_ms})
        body = head + rest[1:-1] + b',"pdus":[' + joined_pdus + b"]}"
        content = hashlib.blake2b(joined_pdus, digest_size=15)
        content.update(joined_edus if pdus else body)
        txn_id = base64.urlsafe_b64encode(content.digest()).decode()
        return TransactionBody(f"/_matrix/federation/v1/send/{segment(txn_id)}", body)
