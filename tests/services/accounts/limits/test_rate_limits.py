"""The configured rate limits; time is virtual."""

from typing import Any

import pytest
import trio

from hs.core.errors import LimitExceeded
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.limits.rate_limits import ConfiguredRates
from hs.settings.sections.rate_limits import Rate, RateLimitSettings

SETTINGS = RateLimitSettings(
    rc_message=Rate(1, 2), rc_registration=Rate(1, 1), rc_reports=Rate(0, 0)
)
ALICE = Requester(UserID("@alice:test"))
BOB = Requester(UserID("@bob:test"))


async def test_each_user_has_a_bucket_that_fills_again(autojump_clock: Any) -> None:
    rates = ConfiguredRates(SETTINGS)
    for _ in range(2):
        rates.check("message", ALICE, "")
    rates.check("message", BOB, "")

    with pytest.raises(LimitExceeded) as refused:
        rates.check("message", ALICE, "")

    assert 0 < refused.value.extra["retry_after_ms"] <= 1000
    await trio.sleep(1)
    rates.check("message", ALICE, "")


async def test_who_is_not_known_counts_by_address(autojump_clock: Any) -> None:
    rates = ConfiguredRates(SETTINGS)
    rates.check("registration", None, "192.0.2.1")
    rates.check("registration", None, "192.0.2.2")

    with pytest.raises(LimitExceeded):
        rates.check("registration", ALICE, "192.0.2.1")


async def test_a_rate_of_nothing_lets_nothing_through(autojump_clock: Any) -> None:
    with pytest.raises(LimitExceeded):
        ConfiguredRates(SETTINGS).check("reports", ALICE, "")


async def test_services_and_classes_without_a_setting_are_not_limited() -> None:
    rates = ConfiguredRates(SETTINGS)
    service = Requester(UserID("@bot:test"), appservice_id="bridge", unlimited=True)

    for _ in range(50):
        rates.check("message", service, "")
        rates.check("typing", ALICE, "")
