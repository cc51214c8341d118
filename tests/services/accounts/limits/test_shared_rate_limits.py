"""Rate limits shared by several processes, with virtual time."""

import random

import attrs
import pytest
import trio

from hs.core.errors import LimitExceeded
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import RATES
from hs.lib.clock import FixedClock
from hs.lib.limiter import TokenBucketRate as Bucket
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub
from hs.repl.memory_writer import MemoryWriter
from hs.services.accounts.limits.rate_limits import LoginLimits, RequestRateLimits
from hs.services.accounts.limits.shared_rate_limits import UNANNOUNCED_SHARE, SharedRateLimits
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.settings.sections.rate_limits import LoginRates, Rate, RateLimitSettings

ALICE = Requester(UserID("@alice:test"))
ROOM = RoomID("!room:test")
BOB = UserID("@bob:test")
NAMES = ("main", "sync1", "sync2")
PER_S = 10.0
BURST = 20


@attrs.define(eq=False)
class Processes:
    """The shared limits of three connected processes."""

    shared: list[SharedRateLimits]

    def rates(self, settings: RateLimitSettings) -> list[RequestRateLimits]:
        return [RequestRateLimits(settings, shared.make) for shared in self.shared]

    def announce(self) -> None:
        for shared in self.shared:
            shared.announce()


def make_processes() -> Processes:
    hub, shared_rates = InProcHub(), []
    for name in NAMES:
        feed = Feed()
        writer = MemoryWriter(RATES, name, hub.join(feed), 1000)
        writer.attach()
        shared_rates.append(SharedRateLimits(feed, writer))
    return Processes(shared_rates)


def is_granted(rates: RequestRateLimits) -> bool:
    try:
        rates.check("message", ALICE, "")
    except LimitExceeded:
        return False
    return True


@pytest.mark.parametrize("every_s", [0.002, 0.02, 0.05])
async def test_limit_holds_for_all_processes_together(
    every_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    processes = make_processes()
    limits = processes.rates(RateLimitSettings(rc_message=Rate(PER_S, BURST)))
    generator, granted, seconds = random.Random(7), 0, 60.0
    async with trio.open_nursery() as nursery:
        for shared in processes.shared:
            nursery.start_soon(shared.run)
        while trio.current_time() < seconds:
            granted += is_granted(generator.choice(limits))
            await trio.sleep(every_s)
        nursery.cancel_scope.cancel()

    allowed = PER_S * seconds + BURST
    assert 0.9 * allowed <= granted <= 1.1 * allowed


async def test_grants_below_the_unannounced_share_are_not_announced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    processes = make_processes()
    first, *_ = processes.rates(RateLimitSettings(rc_message=Rate(1000, 1000)))
    position = processes.shared[0]._writer.position

    for _ in range(int(1000 * UNANNOUNCED_SHARE) - 1):
        first.check("message", ALICE, "")
    processes.announce()
    assert processes.shared[0]._writer.position == position
    first.check("message", ALICE, "")
    first.check("message", ALICE, "")
    processes.announce()
    assert processes.shared[0]._writer.position == position + 1


async def test_failed_logins_count_in_all_processes(autojump_clock: trio.testing.MockClock) -> None:
    processes = make_processes()
    settings = RateLimitSettings(rc_login=LoginRates(failed_attempts=Rate(0.1, 2)))
    first, second, third = (LoginLimits(settings, shared.make) for shared in processes.shared)

    first.count_failure(BOB)
    second.count_failure(BOB)
    processes.announce()

    for limits in (first, second, third):
        with pytest.raises(LimitExceeded), limits.attempt(BOB):
            pass


async def test_invites_count_in_all_processes_by_their_own_clock() -> None:
    processes = make_processes()
    clock = FixedClock()
    settings = RateLimitSettings()
    first, second, _ = (
        MembershipLimits(settings, clock, shared.make) for shared in processes.shared
    )
    _exhaust(first)
    processes.announce()

    with pytest.raises(LimitExceeded):
        second.check_invite(ALICE, ROOM, BOB)
    clock.advance(3_600_000)
    second.check_invite(ALICE, ROOM, BOB)


def _exhaust(limits: MembershipLimits) -> None:
    while True:
        try:
            limits.check_invite(ALICE, ROOM, BOB)
        except LimitExceeded:
            return


def test_bucket_can_be_overdrawn_by_charges() -> None:
    limiter = make_processes().shared[0].make("x", Bucket(1, 1))

    limiter.charge("key", 0.0, 3.0)

    assert limiter.peek("key", 0.0) == 3.0
    assert limiter.peek("key", 3.0) == 0.0
