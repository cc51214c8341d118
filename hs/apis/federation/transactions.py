"""Transactions: the events and ephemeral data that other servers send."""

import attrs

from hs.apis.web.auth import FEDERATION
from hs.apis.web.request import origin, path, raw_body
from hs.apis.web.route import route
from hs.core.ids import EventID, ServerName
from hs.services.federation.inbound.transactions import InboundTransactions

MAX_BODY_BYTES = 12 << 20
"""50 PDUs and 100 EDUs of 64 KiB, with what each PDU has in `unsigned`."""


@attrs.frozen
class SendTransaction:
    """PUT /send/{txn_id}."""

    txn_id: str = path()
    origin: ServerName = origin()
    content: bytes = raw_body()


@attrs.frozen
class TransactionResponse:
    """The result of each PDU: an object with an `error`, or an empty one."""

    pdus: dict[EventID, dict[str, str]]


@attrs.frozen
class TransactionsApi:
    """The endpoint of transactions; InboundTransactions enters the gates."""

    transactions: InboundTransactions

    @route(
        "PUT",
        "/_matrix/federation/v1/send/{txn_id}",
        auth=FEDERATION,
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def send_transaction(self, request: SendTransaction) -> TransactionResponse:
        """Spec: server-server API, Transactions."""
        results = await self.transactions.receive(request.origin, request.content)
        return TransactionResponse(results)
