"""Restricted joins: who may join because of another room, and which member of ours lets them in.

Spec: client-server API, Restricted rooms.
"""

from collections.abc import Iterator

import attrs

from hs.core.errors import Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.services.rooms.store.auth_state import Deciding
from hs.services.rooms.store.memberships import Memberships

_MAX_ALLOWED_ROOMS = 100  # looked at; a longer list is an attack on our database


def is_restricted(deciding: Deciding) -> bool:
    """Tell whether membership of another room opens a room."""
    rule, rules = deciding.join_rule, deciding.rules
    return (rule == event_types.RULE_RESTRICTED and rules.restricted_joins) or (
        rule == event_types.RULE_KNOCK_RESTRICTED and rules.knock_restricted
    )


def allowed_rooms(deciding: Deciding) -> Iterator[RoomID]:
    """List the rooms whose members may join a restricted room."""
    allow = deciding.events[event_types.JOIN_RULES_KEY].content.get("allow")
    for entry in allow[:_MAX_ALLOWED_ROOMS] if isinstance(allow, list) else ():
        if isinstance(entry, dict) and entry.get("type") == "m.room_membership":
            room_id = entry.get("room_id")
            if isinstance(room_id, str) and "\0" not in room_id:
                yield RoomID(room_id)


@attrs.frozen(eq=False)
class RestrictedJoins:
    """Finds whether, and by whom, users are let into restricted rooms."""

    _memberships: Memberships

    async def authoriser_for(self, user_id: UserID, deciding: Deciding) -> UserID | None:
        """Give who lets a user in; None where nobody needs to.

        `deciding` must hold the user's own membership.
        Raises: Forbidden; UnableToAuthoriseJoin, UnableToGrantJoin when another server may know.
        """
        if not is_restricted(deciding):
            return None
        if deciding.membership(user_id) in (event_types.JOIN, event_types.INVITE):
            return None
        await self.check_allowed(user_id, deciding)
        return await self._local_inviter(deciding)

    async def check_allowed(self, user_id: UserID, deciding: Deciding) -> None:
        """Refuse users who are in none of the rooms that open a restricted one.

        Raises: Forbidden; UnableToAuthoriseJoin, when this server does not know all those rooms.
        """
        unknown = False
        for room_id in allowed_rooms(deciding):
            if await self._memberships.is_joined(room_id, user_id):
                return
            if not self._memberships.is_local(user_id) and not unknown:
                unknown = not (await self._memberships.present(room_id)).local
        if unknown:
            raise UnableToAuthoriseJoin("This server is not in all the rooms that let people in")
        raise Forbidden("You are not invited, and in none of the rooms whose members may join")

    async def _local_inviter(self, deciding: Deciding) -> UserID:
        power = deciding.power
        local = (await self._memberships.present(deciding.room_id)).local
        named = [one for one in map(UserID, (*power.creators, *power.users)) if one in local]
        # Of all those without a power of their own, any will do: rooms are large.
        other = next((one for one in local if one not in power.users), None)
        candidates = named if other is None else [*named, other]
        best = max(candidates, key=lambda one: (power.of_user(one), one), default=None)
        if best is None or power.of_user(best) < power.invite:
            raise UnableToGrantJoin("No user of this server in the room may invite")
        return best
