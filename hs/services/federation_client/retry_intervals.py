"""How long a server that does not respond gets no requests.

Most servers that fail are being restarted. So the first `max_long_retries` intervals begin with a
second and are doubled, up to `max_long_retry_delay`. After these attempts, the intervals begin with
`destination_min_retry_interval`, which also limits the first ones.
"""

import random
from collections.abc import Callable
from typing import Final

import attrs

from hs.lib.backoff import Backoff
from hs.settings.sections.federation import PeerRequestSettings

FIRST_S: Final = 1.0
JITTER: Final = 0.2


@attrs.frozen
class RetryIntervals:
    """The intervals by the number of consecutive failures."""

    _early: Backoff
    _late: Backoff
    _early_count: int

    @classmethod
    def of(
        cls, settings: PeerRequestSettings, chance: Callable[[], float] = random.random
    ) -> "RetryIntervals":
        """Return the intervals that are configured; `chance` returns random numbers in [0, 1)."""
        min_s = max(FIRST_S, settings.destination_min_retry_interval / 1000)
        return cls(
            Backoff(
                FIRST_S,
                min(min_s, settings.max_long_retry_delay / 1000),
                jitter=JITTER,
                chance=chance,
            ),
            Backoff(
                min_s,
                max(min_s, settings.destination_max_retry_interval / 1000),
                factor=settings.destination_retry_multiplier,
                jitter=JITTER,
                chance=chance,
            ),
            settings.max_long_retries,
        )

    def after_s(self, failures: int) -> float:
        """Return the interval in seconds after a number of consecutive failures."""
        if failures <= self._early_count:
            return self._early.delay_s(failures)
        return max(self._late.first_s, self._late.delay_s(failures - self._early_count))
