"""Ask a room's policy server to sign new events before they are sent, and those received unsigned.

Spec: server-server API, Policy Servers.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, Protocol

import attrs
import trio

from hs.core.errors import (
    Forbidden,
    InvalidSignature,
    MatrixError,
    RemoteFault,
    may_be_relayed,
)
from hs.core.events.event import Event
from hs.core.events.policy import (
    RoomPolicy,
    has_policy_signature,
    is_exempt,
    room_policy_of,
    with_policy_signature,
)
from hs.core.ids import EventID, RoomID, ServerName, server_of
from hs.services.rooms.store.memberships import Memberships

SIGN_TIMEOUT_S: Final = 10.0
"""Timeout for one event; the whole room waits for it."""

RECEIVED_AT_ONCE: Final = 5
RECEIVED_TIMEOUT_S: Final = 20.0
"""Timeout for the received events of one call together; other calls do not wait for it."""


class PolicyServers(Protocol):
    """Sends requests to policy servers."""

    async def sign(self, server: ServerName, pdu: bytes) -> Mapping[str, Any]:
        """Submit an event; return the signatures in the response.

        Raises: MatrixError, with the server's error response; RemoteFault, if there was no
        response.
        """
        ...


class NoPolicyServers:
    """The PolicyServers of a server that cannot send federation requests."""

    async def sign(self, server: ServerName, pdu: bytes) -> NoReturn:
        """Raise RemoteFault."""
        raise RemoteFault(server, "requests to policy servers are not available")


@attrs.frozen(eq=False)
class PolicyServerCheck:
    """Checks new events of rooms that have a policy server, one event after the other."""

    _memberships: Memberships
    _servers: PolicyServers

    async def sign_recommended(
        self, room_id: RoomID, policy_event: Event, events: Sequence[Event]
    ) -> list[Event]:
        """Return the events with the policy server's signatures.

        `policy_event` is the room's m.room.policy.
        Raises: MatrixError, if the policy server does not recommend an event.
        """
        policy = room_policy_of(policy_event.content)
        if policy is None or not await self._has_joined_users(room_id, policy.server):
            return list(events)
        return [e if is_exempt(e) else await self._sign(policy, e) for e in events]

    async def check_received(
        self, room_id: RoomID, policy_event: Event, events: Collection[Event]
    ) -> tuple[dict[EventID, Event], frozenset[EventID]]:
        """Check events of other servers; return those newly signed, and those not recommended."""
        policy = room_policy_of(policy_event.content)
        if policy is None or not await self._has_joined_users(room_id, policy.server):
            return {}, frozenset()
        unsigned = [e for e in events if not is_exempt(e) and not has_policy_signature(e, policy)]
        signed: dict[EventID, Event] = {}
        remaining = iter(unsigned)

        async def work() -> None:
            for event in remaining:
                with suppress(MatrixError):
                    signed[event.event_id] = await self._sign(policy, event)

        with trio.move_on_after(RECEIVED_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(min(RECEIVED_AT_ONCE, len(unsigned))):
                    nursery.start_soon(work)
        return signed, frozenset(event.event_id for event in unsigned) - signed.keys()

    async def _has_joined_users(self, room_id: RoomID, server: ServerName) -> bool:
        # A policy server without a joined user has no authority over the room.
        present = await self._memberships.present(room_id)
        return any(server_of(user_id) == server for user_id in present.joined)

    async def _sign(self, policy: RoomPolicy, event: Event) -> Event:
        try:
            with trio.fail_after(SIGN_TIMEOUT_S):
                signatures = await self._servers.sign(policy.server, event.canonical)
            return with_policy_signature(event, policy, signatures)
        except RemoteFault as fault:
            if fault.error is not None and may_be_relayed(fault.error):
                raise fault.error from fault
            raise _unreachable(policy) from fault
        except trio.TooSlowError as fault:
            raise _unreachable(policy) from fault
        except InvalidSignature as fault:
            raise Forbidden("The room's policy server did not recommend the event") from fault


def _unreachable(policy: RoomPolicy) -> MatrixError:
    return MatrixError(
        "M_UNKNOWN", 502, f"The room's policy server {policy.server} did not respond"
    )
