"""Rate limits on joins and invites that depend on the room and the target user."""

from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import InvalidParam, LimitExceeded
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.lib.limiter import RateLimiter
from hs.services.accounts.limits.rate_limits import LimiterFactory, bucket_of, make_local_limiter
from hs.settings.sections.rate_limits import Rate, RateLimitSettings

_MAX_RETRY_AFTER_S: Final = 24 * 3600

_Cost = tuple[RateLimiter[str], str, float]


@attrs.define(eq=False)
class MembershipLimits:
    """Rate limits on joins and invites; requesters may be exempt."""

    _settings: RateLimitSettings
    _clock: Clock
    _make: LimiterFactory = make_local_limiter
    _joins: RateLimiter[str] = attrs.field(init=False)
    _remote_joins: RateLimiter[str] = attrs.field(init=False)
    _joins_of_rooms: RateLimiter[str] = attrs.field(init=False)
    _invites_in_rooms: RateLimiter[str] = attrs.field(init=False)
    _invites_of_users: RateLimiter[str] = attrs.field(init=False)
    _invites_by_users: RateLimiter[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        joins, invites = self._settings.rc_joins, self._settings.rc_invites
        self._joins = self._limiter("joins", joins.local)
        self._remote_joins = self._limiter("remote_joins", joins.remote)
        self._joins_of_rooms = self._limiter("joins_of_rooms", self._settings.rc_joins_per_room)
        self._invites_in_rooms = self._limiter("invites_in_rooms", invites.per_room)
        self._invites_of_users = self._limiter("invites_of_users", invites.per_user)
        self._invites_by_users = self._limiter("invites_by_users", invites.per_issuer)

    def _limiter(self, name: str, rate: Rate) -> RateLimiter[str]:
        return self._make(name, bucket_of(rate), self._now_s)

    def _now_s(self) -> float:
        return self._clock.steady_ms() / 1000

    def check_join(self, requester: Requester, room_id: RoomID) -> None:
        """Count a join to a room that this server is in. Raises: LimitExceeded."""
        self._take(
            requester,
            (self._joins, requester.user_id, 1),
            (self._joins_of_rooms, room_id, 1),
        )

    def check_remote_join(self, requester: Requester, room_id: RoomID) -> None:
        """Count a join to a room that this server is not in. Raises: LimitExceeded."""
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

    def check_remote_invite(self, room_id: RoomID, invited: UserID) -> None:
        """Count an invite by a user of another server. Raises: LimitExceeded."""
        self._take_costs((self._invites_in_rooms, room_id, 1), (self._invites_of_users, invited, 1))

    def check_first_invites(self, requester: Requester, invited: Sequence[UserID]) -> None:
        """Count the invites to a new room.

        Raises: LimitExceeded; InvalidParam, for more invites than the limit can ever allow.
        """
        most = self._settings.rc_invites.per_issuer.burst_count
        if len(invited) > most and not requester.is_rate_limit_exempt:
            raise InvalidParam(f"At most {most} users can be invited at once")
        if invited:
            self._take(
                requester,
                (self._invites_by_users, requester.user_id, len(invited)),
                *((self._invites_of_users, user_id, 1.0) for user_id in invited),
            )

    def _take(self, requester: Requester, *costs: _Cost) -> None:
        if not requester.is_rate_limit_exempt:
            self._take_costs(*costs)

    def _take_costs(self, *costs: _Cost) -> None:
        now_s = self._now_s()
        wait_s = max(limiter.peek(key, now_s, cost=cost) for limiter, key, cost in costs)
        if wait_s > 0:
            raise LimitExceeded(
                "Too many requests", retry_after_ms=int(min(wait_s, _MAX_RETRY_AFTER_S) * 1000) + 1
            )
        for limiter, key, cost in costs:
            limiter.take(key, now_s, cost=cost)
