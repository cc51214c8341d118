"""Limits hold for all processes together; time is virtual."""

import random

import attrs
import pytest
import trio

from hs.core.errors import LimitExceeded
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.lib.limiter import Rate as Bucket
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub
from hs.repl.memory_writer import MemoryWriter
from hs.repl.streams import RATES
from hs.services.accounts.limits.rate_limits import ConfiguredRates, LoginLimits
from hs.services.accounts.limits.shared_rate_limits import UNTOLD, SharedRates
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
    """Three processes that hear each other."""

    shared: list[SharedRates]

    def rates(self, settings: RateLimitSettings) -> list[ConfiguredRates]:
        return [ConfiguredRates(settings, one.make) for one in self.shared]

    def tell(self) -> None:
        for one in self.shared:
            one.tell()


def make_processes() -> Processes:
    hub, made = InProcHub(), []
    for name in NAMES:
        feed = Feed()
        writer = MemoryWriter(RATES, name, hub.join(feed), 1000)
        writer.attach()
        made.append(SharedRates(feed, writer))
    return Processes(made)


def is_granted(rates: ConfiguredRates) -> bool:
    try:
        rates.check("message", ALICE, "")
    except LimitExceeded:
        return False
    return True


@pytest.mark.parametrize("every_s", [0.002, 0.02, 0.05])
async def test_a_limit_holds_over_all_processes(
    every_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    processes = make_processes()
    limits = processes.rates(RateLimitSettings(rc_message=Rate(PER_S, BURST)))
    chance, granted, seconds = random.Random(7), 0, 60.0
    async with trio.open_nursery() as nursery:
        for one in processes.shared:
            nursery.start_soon(one.run)
        while trio.current_time() < seconds:
            granted += is_granted(chance.choice(limits))
            await trio.sleep(every_s)
        nursery.cancel_scope.cancel()

    allowed = PER_S * seconds + BURST
    assert 0.9 * allowed <= granted <= 1.1 * allowed


async def test_little_of_much_is_not_told(autojump_clock: trio.testing.MockClock) -> None:
    processes = make_processes()
    first, *_ = processes.rates(RateLimitSettings(rc_message=Rate(1000, 1000)))
    before = processes.shared[0]._writer.position

    for _ in range(int(1000 * UNTOLD) - 1):
        first.check("message", ALICE, "")
    processes.tell()
    assert processes.shared[0]._writer.position == before
    first.check("message", ALICE, "")
    first.check("message", ALICE, "")
    processes.tell()
    assert processes.shared[0]._writer.position == before + 1


async def test_wrong_passwords_count_everywhere(autojump_clock: trio.testing.MockClock) -> None:
    processes = make_processes()
    settings = RateLimitSettings(rc_login=LoginRates(failed_attempts=Rate(0.1, 2)))
    one, two, three = (LoginLimits(settings, shared.make) for shared in processes.shared)

    one.wrong_password(BOB)
    two.wrong_password(BOB)
    processes.tell()

    for limits in (one, two, three):
        with pytest.raises(LimitExceeded):
            limits.before_password(BOB)


async def test_joins_count_everywhere_by_their_own_clock() -> None:
    processes = make_processes()
    clock = FixedClock()
    settings = RateLimitSettings()
    one, two, _ = (MembershipLimits(settings, clock, shared.make) for shared in processes.shared)
    _use_up(one)
    processes.tell()

    with pytest.raises(LimitExceeded):
        two.check_invite(ALICE, ROOM, BOB)
    clock.advance(3_600_000)
    two.check_invite(ALICE, ROOM, BOB)


def _use_up(limits: MembershipLimits) -> None:
    while True:
        try:
            limits.check_invite(ALICE, ROOM, BOB)
        except LimitExceeded:
            return


def test_a_bucket_may_be_charged_more_than_is_in_it() -> None:
    limiter = make_processes().shared[0].make("x", Bucket(1, 1))

    limiter.charge("key", 0.0, 3.0)

    assert limiter.peek("key", 0.0) == 3.0
    assert limiter.peek("key", 3.0) == 0.0
