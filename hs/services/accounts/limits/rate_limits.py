"""The configured rate limits: per request class, and on logins to one account."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
import trio

from hs.core.errors import LimitExceeded
from hs.core.requester import Requester
from hs.lib.client_sources import source_of
from hs.lib.limiter import RateLimiter
from hs.lib.limiter import TokenBucketRate as Bucket
from hs.settings.sections.rate_limits import Rate, RateLimitSettings

LONGEST_WAIT_S = 86_400.0
# A registration takes several requests, some of which clients repeat until the user has read an
# e-mail. They have a limit of their own, by this factor above that of registrations.
UIA_FACTOR = 10
# Users who confirm operations with their password, each of which costs a hash.
CONFIRMATION_RATE = Rate(0.5, 20)
# Clients check with every typed letter. There is no setting for this limit.
USERNAME_CHECK_RATE = Rate(1, 10)
# Clients request a preview for each link that scrolls into view.
URL_PREVIEW_RATE = Rate(5, 50)
# Clients search when the user asks for it, and once for each further page of results.
SEARCH_RATE = Rate(1, 20)
# Widgets and calls ask for one when they start; each is stored for an hour.
OPENID_RATE = Rate(1, 100)
# Each change wakes all clients that follow profiles and share a room.
PROFILE_RATE = Rate(1, 100)


class LimiterFactory(Protocol):
    """A factory of named limiters, which may share their counts with other processes."""

    def __call__(
        self, name: str, rate: Bucket, now_s: Callable[[], float] = ...
    ) -> RateLimiter[str]:
        """Create a limiter; `now_s` is the clock that its callers pass to it."""
        ...


def make_local_limiter(
    name: str, rate: Bucket, now_s: Callable[[], float] = trio.current_time
) -> RateLimiter[str]:
    """Create a limiter that counts in this process only."""
    return RateLimiter(rate)


def bucket_of(rate: Rate) -> Bucket:
    """Convert a setting to a token bucket; zeros become tiny values, which permit nothing."""
    return Bucket(max(rate.per_second, 1e-9), max(float(rate.burst_count), 1e-9))


def enforce_limit(
    limiter: RateLimiter[Any], key: Any, *, cost: float = 1, rate: Bucket | None = None
) -> None:
    """Take `cost` tokens from the key's bucket. Raises: LimitExceeded."""
    _check_wait(limiter.take(key, trio.current_time(), cost=cost, rate=rate))


def check_limit(limiter: RateLimiter[Any], key: Any) -> None:
    """Check that a token is left, without taking it. Raises: LimitExceeded."""
    _check_wait(limiter.peek(key, trio.current_time()))


def _check_wait(wait_s: float) -> None:
    if wait_s > 0:
        wait_ms = math.ceil(min(wait_s, LONGEST_WAIT_S) * 1000)
        raise LimitExceeded("Too many requests", retry_after_ms=wait_ms)


def _rates(settings: RateLimitSettings) -> Mapping[str, Rate]:
    """Return the setting of each rate class that endpoints name."""
    return {
        "message": settings.rc_message,
        "registration": settings.rc_registration,
        "registration_hash": settings.rc_registration,
        "uia_without_token": _times(settings.rc_registration, UIA_FACTOR),
        "username_availability": USERNAME_CHECK_RATE,
        "url_preview": URL_PREVIEW_RATE,
        "search": SEARCH_RATE,
        "openid": OPENID_RATE,
        "profile": PROFILE_RATE,
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
    (
        "registration",
        "registration_hash",
        "uia_without_token",
        "username_availability",
        "registration_token_validity",
        "login",
    )
)


def _times(rate: Rate, factor: int) -> Rate:
    return Rate(rate.per_second * factor, rate.burst_count * factor)


class RequestRateLimits:
    """The limits on requests: per user, or per IP address for requests without a user.

    Rate classes without a setting and requesters with `unlimited` set are not limited.
    """

    def __init__(
        self, settings: RateLimitSettings, make: LimiterFactory = make_local_limiter
    ) -> None:
        self._limiters: dict[str, RateLimiter[str]] = {
            name: make(name, bucket_of(rate)) for name, rate in _rates(settings).items()
        }

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Count one request of the rate class `rate`. Raises: LimitExceeded."""
        limiter = self._limiters.get(rate)
        if limiter is None or (requester is not None and requester.is_rate_limit_exempt):
            return
        if requester is None or rate in _PER_ADDRESS:
            enforce_limit(limiter, source_of(client_ip))
        else:
            enforce_limit(limiter, requester.user_id)


@attrs.define(eq=False)
class LoginLimits:
    """Limits on logins to one account, in addition to the limit per IP address.

    A password that is being checked counts as a failed attempt until the result is known.
    Otherwise requests at the same moment, from many addresses, would all be let through.
    """

    _settings: RateLimitSettings
    _make: LimiterFactory = make_local_limiter
    _account: RateLimiter[str] = attrs.field(init=False)
    _failures: RateLimiter[str] = attrs.field(init=False)
    _confirmations: RateLimiter[str] = attrs.field(init=False)
    _under_way: Counter[str] = attrs.field(init=False, factory=Counter)

    def __attrs_post_init__(self) -> None:
        rates = self._settings.rc_login
        self._account = self._make("login_account", bucket_of(rates.account))
        self._failures = self._make("login_failures", bucket_of(rates.failed_attempts))
        self._confirmations = self._make("confirmations", bucket_of(CONFIRMATION_RATE))

    @contextmanager
    def attempt(self, user_id: str) -> Iterator[None]:
        """Check that the account has not had too many failed attempts. Raises: LimitExceeded."""
        check_limit(self._failures, user_id)
        if self._under_way[user_id]:
            cost = 1 + self._under_way[user_id]
            if self._failures.peek(user_id, trio.current_time(), cost=cost) > 0:
                raise LimitExceeded("Too many requests", retry_after_ms=1000)
        self._under_way[user_id] += 1
        try:
            yield
        finally:
            self._under_way[user_id] -= 1
            if not self._under_way[user_id]:
                del self._under_way[user_id]

    def count_failure(self, user_id: str) -> None:
        """Count a failed attempt."""
        self._failures.take(user_id, trio.current_time())

    def confirm(self, user_id: str) -> None:
        """Count a password with which a user confirms an operation. Raises: LimitExceeded."""
        enforce_limit(self._confirmations, user_id)

    def log_in(self, user_id: str) -> None:
        """Count a login. Raises: LimitExceeded."""
        enforce_limit(self._account, user_id)
