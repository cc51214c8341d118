"""Restricted joins: who may join because of another room, and which local user authorizes it.

Spec: client-server API, Restricted rooms.
"""

from collections.abc import Iterator

import attrs

from hs.core.errors import Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.services.rooms.store.auth_state import AuthState
from hs.services.rooms.store.memberships import Memberships

_MAX_ALLOWED_ROOMS = 100  # limits the work of hostile lists


def is_restricted(auth_state: AuthState) -> bool:
    """Return whether members of other rooms may join the room."""
    rule, rules = auth_state.join_rule, auth_state.rules
    return (rule == event_types.RULE_RESTRICTED and rules.restricted_joins) or (
        rule == event_types.RULE_KNOCK_RESTRICTED and rules.knock_restricted
    )


def allowed_rooms(auth_state: AuthState) -> Iterator[RoomID]:
    """Yield the rooms whose members may join a restricted room."""
    allow = auth_state.events[event_types.JOIN_RULES_KEY].content.get("allow")
    for entry in allow[:_MAX_ALLOWED_ROOMS] if isinstance(allow, list) else ():
        if isinstance(entry, dict) and entry.get("type") == "m.room_membership":
            room_id = entry.get("room_id")
            if isinstance(room_id, str) and "\0" not in room_id:
                yield RoomID(room_id)


@attrs.frozen(eq=False)
class RestrictedJoins:
    """Decides whether users may join restricted rooms, and who authorizes them."""

    _memberships: Memberships

    async def authoriser_for(self, user_id: UserID, auth_state: AuthState) -> UserID | None:
        """Return the local user who authorizes a join; None if no authorization is needed.

        `auth_state` must contain the user's own membership.
        Raises: Forbidden; UnableToAuthoriseJoin, UnableToGrantJoin, if another server may be able
            to.
        """
        if not is_restricted(auth_state):
            return None
        if auth_state.membership(user_id) in (event_types.JOIN, event_types.INVITE):
            return None
        await self.check_allowed(user_id, auth_state)
        return await self._local_inviter(auth_state)

    async def check_allowed(self, user_id: UserID, auth_state: AuthState) -> None:
        """Raise Forbidden if the user is in none of the allowed rooms.

        Raises: UnableToAuthoriseJoin, if this server does not know all of those rooms.
        """
        unknown = False
        for room_id in allowed_rooms(auth_state):
            if await self._memberships.is_joined(room_id, user_id):
                return
            if not self._memberships.is_local(user_id) and not unknown:
                unknown = not (await self._memberships.present(room_id)).local
        if unknown:
            raise UnableToAuthoriseJoin("This server is not in all rooms whose members may join")
        raise Forbidden("You are neither invited nor in a room whose members may join")

    async def _local_inviter(self, auth_state: AuthState) -> UserID:
        power = auth_state.power
        local = (await self._memberships.present(auth_state.room_id)).local
        privileged = [
            user_id for user_id in map(UserID, (*power.creators, *power.users)) if user_id in local
        ]
        # Of the users with the default power level, any will do: rooms are large.
        ordinary = next((user_id for user_id in local if user_id not in power.users), None)
        candidates = privileged if ordinary is None else [*privileged, ordinary]
        best = max(candidates, key=lambda user_id: (power.of_user(user_id), user_id), default=None)
        if best is None or power.of_user(best) < power.invite:
            raise UnableToGrantJoin("No local user in the room may invite")
        return best
