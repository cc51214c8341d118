"""Leaves that end invites and knocks in rooms that this server is not in, without another server.

Such a leave follows the invite or knock, which is all that is known of the room, and is only seen
here.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.events import event_types
from hs.core.events.build import EventDraft, GraphPosition, build_event
from hs.core.events.event import Event
from hs.core.ids import EventID, UserID
from hs.core.signing.keys import Signer
from hs.lib.clock import Clock
from hs.services.rooms.append.event_builder import MAX_DEPTH, random_opaque
from hs.services.rooms.append.hot_room import encoded_reference_hash
from hs.services.rooms.receive.outside_memberships import OutsideMembership, OutsideMemberships
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership

_MAX_CITED: Final = 10
_WAITING: Final = (event_types.INVITE, event_types.KNOCK)


@attrs.frozen(eq=False)
class OutsideLeaves:
    """Ends invites and knocks without another server."""

    _events: EventStore
    _outside: OutsideMemberships
    _signer: Signer
    _clock: Clock

    async def leave(self, own: LocalMembership, content: Mapping[str, Any]) -> bool:
        """End an invite or knock; return False if it is not the user's membership any more.

        Raises: MatrixError 503, may be retried.
        """
        stored = await self._events.get_one(own.event_id)
        if stored is None or own.membership not in _WAITING:
            return False
        leave = _leave_after(stored.event, content, self._signer, self._clock.now_ms())
        version = leave.rules.identifier
        membership = OutsideMembership(version, leave.canonical, replaces=own.event_id)
        return await self._outside.store(leave.room_id, membership)


def _leave_after(before: Event, content: Mapping[str, Any], signer: Signer, now_ms: int) -> Event:
    rules = before.rules
    event_id = None
    if not rules.event_id_is_hash:
        event_id = EventID(f"${random_opaque()}:{signer.server_name}")
    cited = [before.event_id, *before.auth_events][:_MAX_CITED]
    hash_of_before = "" if rules.event_id_is_hash else encoded_reference_hash(before)
    place = GraphPosition(
        room_id=before.room_id,
        prev_events=[before.event_id],
        auth_events=cited,
        depth=min(before.depth + 1, MAX_DEPTH),
        origin_server_ts=now_ms,
        event_id=event_id,
        reference_hashes=dict.fromkeys(cited, hash_of_before),
    )
    user_id = UserID(before.state_key or "")
    draft = EventDraft(event_types.MEMBER, user_id, content, user_id)
    return build_event(draft, place, rules, signer)
