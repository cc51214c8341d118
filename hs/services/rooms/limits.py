"""How often users may join and invite: the limits that depend on the room and on who is meant."""

from collections.abc import Hashable, Sequence
from typing import Final

import attrs

from hs.core.errors import LimitExceeded
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.lib.limiter import RateLimiter
from hs.services.accounts.rate_limits import bucket_of
from hs.settings.limits import Rate, RateLimitSettings

_NEVER_S: Final = 24 * 3600

_Take = tuple[RateLimiter[Hashable], Hashable, float]


def _limiter(rate: Rate) -> RateLimiter[Hashable]:
    return RateLimiter(bucket_of(rate))


@attrs.frozen(eq=False)
class MembershipLimits:
    """Counts joins and invites of this process; some requesters are not counted."""

    _settings: RateLimitSettings
    _clock: Clock
    _joins: RateLimiter[Hashable] = attrs.field(init=False)
    _remote_joins: RateLimiter[Hashable] = attrs.field(init=False)
    _joins_of_rooms: RateLimiter[Hashable] = attrs.field(init=False)
    _invites_in_rooms: RateLimiter[Hashable] = attrs.field(init=False)
    _invites_of_users: RateLimiter[Hashable] = attrs.field(init=False)
    _invites_by_users: RateLimiter[Hashable] = attrs.field(init=False)

    @_joins.default
    def _make_joins(self) -> RateLimiter[Hashable]:
        return _limiter(self._settings.rc_joins.local)

    @_remote_joins.default
    def _make_remote_joins(self) -> RateLimiter[Hashable]:
        return _limiter(self._settings.rc_joins.remote)

    @_joins_of_rooms.default
    def _make_joins_of_rooms(self) -> RateLimiter[Hashable]:
        return _limiter(self._settings.rc_joins_per_room)

    @_invites_in_rooms.default
    def _make_invites_in_rooms(self) -> RateLimiter[Hashable]:
        return _limiter(self._settings.rc_invites.per_room)

    @_invites_of_users.default
    def _make_invites_of_users(self) -> RateLimiter[Hashable]:
        return _limiter(self._settings.rc_invites.per_user)

    @_invites_by_users.default
    def _make_invites_by_users(self) -> RateLimiter[Hashable]:
        return _limiter(self._settings.rc_invites.per_issuer)

    def check_join(self, requester: Requester, room_id: RoomID) -> None:
        """Count a join of a room that this server is in. Raises: LimitExceeded."""
        self._take(
            requester,
            (self._joins, requester.user_id, 1),
            (self._joins_of_rooms, room_id, 1),
        )

    def check_remote_join(self, requester: Requester, room_id: RoomID) -> None:
        """Count a join of a room that this server is not in. Raises: LimitExceeded."""
        self._take(
            requester,
            (self._remote_joins, requester.user_id, 1),
            (self._joins_of_rooms, room_id, 1),
        )

    def check_invite(self, requester: Requester, room_id: RoomID, invited: UserID) -> None:
        """Count an invite. Raises: LimitExceeded."""
        self._take(
            requester,
            (self._invites_in_rooms, room_id, 1),
            (self._invites_of_users, invited, 1),
            (self._invites_by_users, requester.user_id, 1),
        )

    def check_first_invites(self, requester: Requester, invited: Sequence[UserID]) -> None:
        """Count the invites that come with a new room. Raises: LimitExceeded."""
        if invited:
            self._take(
                requester,
                (self._invites_by_users, requester.user_id, len(invited)),
                *((self._invites_of_users, user_id, 1.0) for user_id in invited),
            )

    def _take(self, requester: Requester, *takes: _Take) -> None:
        if requester.unlimited:
            return
        now_s = self._clock.now_ms() / 1000
        wait_s = max(limiter.peek(key, now_s, cost=cost) for limiter, key, cost in takes)
        if wait_s > 0:
            raise LimitExceeded(
                "Too many requests", retry_after_ms=int(min(wait_s, _NEVER_S) * 1000) + 1
            )
        for limiter, key, cost in takes:
            limiter.take(key, now_s, cost=cost)
