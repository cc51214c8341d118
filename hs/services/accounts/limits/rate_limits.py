"""The rate limits of the configuration."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import trio

from hs.core.errors import LimitExceeded
from hs.core.requester import Requester
from hs.lib.limiter import Rate as Bucket
from hs.lib.limiter import RateLimiter
from hs.settings.sections.rate_limits import Rate, RateLimitSettings

LONGEST_WAIT_S = 86_400.0
# Clients ask with every letter that somebody types; no setting is known for it.
NAME_CHECKS = Rate(1, 10)
# Clients ask for each link that comes into view.
LINK_PREVIEWS = Rate(5, 50)


class MakeLimiter(Protocol):
    """Makes the limiter of a name, which may count together with those of other processes."""

    def __call__(
        self, name: str, rate: Bucket, now_s: Callable[[], float] = ...
    ) -> RateLimiter[str]:
        """Make it; `now_s` is the clock by which it is asked."""
        ...


def own_limiter(
    name: str, rate: Bucket, now_s: Callable[[], float] = trio.current_time
) -> RateLimiter[str]:
    """Make a limiter that counts on its own: where there is one process."""
    return RateLimiter(rate)


def bucket_of(rate: Rate) -> Bucket:
    """Turn a setting into a token bucket; zeros become as good as zero."""
    return Bucket(max(rate.per_second, 1e-9), max(float(rate.burst_count), 1e-9))


def refuse_over(
    limiter: RateLimiter[Any], key: Any, *, cost: float = 1, rate: Bucket | None = None
) -> None:
    """Take a token. Raises: LimitExceeded."""
    _refuse(limiter.take(key, trio.current_time(), cost=cost, rate=rate))


def refuse_spent(limiter: RateLimiter[Any], key: Any) -> None:
    """Look whether there is a token, and leave it. Raises: LimitExceeded."""
    _refuse(limiter.peek(key, trio.current_time()))


def _refuse(wait_s: float) -> None:
    if wait_s > 0:
        wait_ms = math.ceil(min(wait_s, LONGEST_WAIT_S) * 1000)
        raise LimitExceeded("Too many requests", retry_after_ms=wait_ms)


def _rates(settings: RateLimitSettings) -> Mapping[str, Rate]:
    """Name the rate classes that endpoints ask for."""
    return {
        "message": settings.rc_message,
        "registration": settings.rc_registration,
        "username_availability": NAME_CHECKS,
        "url_preview": LINK_PREVIEWS,
        "registration_token_validity": settings.rc_registration_token_validity,
        "login": settings.rc_login.address,
        "admin_redaction": settings.rc_admin_redaction or settings.rc_message,
        "join": settings.rc_joins.local,
        "join_remote": settings.rc_joins.remote,
        "3pid_validation": settings.rc_3pid_validation,
        "invite": settings.rc_invites.per_issuer,
        "media_create": settings.rc_media_create,
        "presence": settings.rc_presence.per_user,
        "delayed_event_mgmt": settings.rc_delayed_event_mgmt,
        "reports": settings.rc_reports,
        "room_creation": settings.rc_room_creation,
        "user_directory": settings.rc_user_directory,
        "key_requests": settings.rc_key_requests,
    }


_PER_ADDRESS = frozenset(
    ("registration", "username_availability", "registration_token_validity", "login")
)


class ConfiguredRates:
    """Counts requests per user, or per address where nobody is known yet.

    A class that no setting names is not limited. Requesters that are `unlimited` are not.
    """

    def __init__(self, settings: RateLimitSettings, make: MakeLimiter = own_limiter) -> None:
        self._limiters: dict[str, RateLimiter[str]] = {
            name: make(name, bucket_of(rate)) for name, rate in _rates(settings).items()
        }

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Count one request of the class. Raises: LimitExceeded with retry_after_ms."""
        limiter = self._limiters.get(rate)
        if limiter is None or (requester is not None and requester.unlimited):
            return
        per_address = requester is None or rate in _PER_ADDRESS
        refuse_over(limiter, client_ip if per_address else _name(requester))


def _name(requester: Requester | None) -> str:
    return "" if requester is None else requester.user_id


@attrs.define(eq=False)
class LoginLimits:
    """Limits on logging in to one account, besides that on the client's address."""

    _settings: RateLimitSettings
    _make: MakeLimiter = own_limiter
    _account: RateLimiter[str] = attrs.field(init=False)
    _failures: RateLimiter[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        rates = self._settings.rc_login
        self._account = self._make("login_account", bucket_of(rates.account))
        self._failures = self._make("login_failures", bucket_of(rates.failed_attempts))

    def before_password(self, user_id: str) -> None:
        """Refuse to try a password after too many wrong ones. Raises: LimitExceeded."""
        refuse_spent(self._failures, user_id)

    def wrong_password(self, user_id: str) -> None:
        """Count a wrong password."""
        self._failures.take(user_id, trio.current_time())

    def log_in(self, user_id: str) -> None:
        """Count a log-in. Raises: LimitExceeded."""
        refuse_over(self._account, user_id)
