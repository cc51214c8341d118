"""Asking a room's policy server for its recommendation of events before they are sent.

Spec: server-server API, Policy Servers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol

import attrs
import trio

from hs.core.errors import Forbidden, InvalidSignature, MatrixError, RemoteFault
from hs.core.events.event import Event
from hs.core.events.policy import RoomPolicy, is_exempt, policy_in, with_recommendation
from hs.core.ids import RoomID, ServerName, server_of
from hs.services.rooms.store.memberships import Memberships

ASK_S: Final = 10.0
"""How long one event may wait: its room waits with it."""


class PolicyServers(Protocol):
    """Speaks to policy servers."""

    async def sign(self, server: ServerName, pdu: bytes) -> Mapping[str, Any]:
        """Offer an event; give the signatures answered.

        Raises: MatrixError, as the server answered; RemoteFault, when it did not.
        """
        ...


class NoPolicyServers:
    """Reaches none: what this server is until it speaks to others."""

    async def sign(self, server: ServerName, pdu: bytes) -> NoReturn:
        """Reach nobody."""
        raise RemoteFault(server, "this server does not speak to policy servers")


class EventPolicies(Protocol):
    """Decides whether new events may go into a room that has chosen a policy server."""

    async def recommended(
        self, room_id: RoomID, chosen: Event, events: Sequence[Event]
    ) -> list[Event]:
        """Give the events with the recommendations they need; `chosen` is the m.room.policy.

        Raises: MatrixError, when one is not recommended.
        """
        ...


@attrs.frozen(eq=False)
class RoomPolicies:
    """Asks for each event in turn."""

    _memberships: Memberships
    _servers: PolicyServers

    async def recommended(
        self, room_id: RoomID, chosen: Event, events: Sequence[Event]
    ) -> list[Event]:
        """Give the events with the recommendations they need; see EventPolicies."""
        policy = policy_in(chosen.content)
        if policy is None or not await self._is_there(room_id, policy.server):
            return list(events)
        return [one if is_exempt(one) else await self._ask(policy, one) for one in events]

    async def _is_there(self, room_id: RoomID, server: ServerName) -> bool:
        """Tell whether the server has somebody in the room, without whom it has no say."""
        present = await self._memberships.present(room_id)
        return any(server_of(user_id) == server for user_id in present.joined)

    async def _ask(self, policy: RoomPolicy, event: Event) -> Event:
        try:
            with trio.fail_after(ASK_S):
                answer = await self._servers.sign(policy.server, event.canonical)
            return with_recommendation(event, policy, answer)
        except RemoteFault as fault:
            if fault.error is not None:
                raise fault.error from fault
            raise _unreachable(policy) from fault
        except trio.TooSlowError as fault:
            raise _unreachable(policy) from fault
        except InvalidSignature as fault:
            raise Forbidden("The room's policy server did not recommend the event") from fault


def _unreachable(policy: RoomPolicy) -> MatrixError:
    return MatrixError(
        "M_UNKNOWN", 502, f"The room's policy server {policy.server} cannot be reached"
    )
