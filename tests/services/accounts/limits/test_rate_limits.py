"""The configured rate limits, with virtual time."""

from typing import Any

import pytest
import trio

from hs.core.errors import LimitExceeded
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.limits.rate_limits import RequestRateLimits
from hs.settings.sections.rate_limits import Rate, RateLimitSettings

SETTINGS = RateLimitSettings(
    rc_message=Rate(1, 2), rc_registration=Rate(1, 1), rc_reports=Rate(0, 0)
)
ALICE = Requester(UserID("@alice:test"))
BOB = Requester(UserID("@bob:test"))


async def test_each_user_has_a_bucket_that_refills(autojump_clock: Any) -> None:
    limits = RequestRateLimits(SETTINGS)
    for _ in range(2):
        limits.check("message", ALICE, "")
    limits.check("message", BOB, "")

    with pytest.raises(LimitExceeded) as error:
        limits.check("message", ALICE, "")

    assert 0 < error.value.extra["retry_after_ms"] <= 1000
    await trio.sleep(1)
    limits.check("message", ALICE, "")


async def test_unauthenticated_requests_are_limited_per_ip_address(autojump_clock: Any) -> None:
    limits = RequestRateLimits(SETTINGS)
    limits.check("registration", None, "192.0.2.1")
    limits.check("registration", None, "192.0.2.2")

    with pytest.raises(LimitExceeded):
        limits.check("registration", ALICE, "192.0.2.1")


async def test_rate_of_zero_rejects_every_request(autojump_clock: Any) -> None:
    with pytest.raises(LimitExceeded):
        RequestRateLimits(SETTINGS).check("reports", ALICE, "")


async def test_appservices_and_unconfigured_rate_classes_are_not_limited() -> None:
    limits = RequestRateLimits(SETTINGS)
    service = Requester(UserID("@bot:test"), appservice_id="bridge", is_rate_limit_exempt=True)

    for _ in range(50):
        limits.check("message", service, "")
        limits.check("typing", ALICE, "")


async def test_searches_are_limited_per_user(autojump_clock: Any) -> None:
    limits = RequestRateLimits(SETTINGS)
    for _ in range(20):
        limits.check("search", ALICE, "192.0.2.1")
    limits.check("search", BOB, "192.0.2.1")

    with pytest.raises(LimitExceeded):
        limits.check("search", ALICE, "192.0.2.2")
