"""What all clients together, and one of them, may make a process keep."""

import pytest

from hs.apis.web.buffers import UNCOUNTED_BYTES, BufferBudget, BufferHold
from hs.core.errors import LimitExceeded

MIB = 1024 * 1024


class Connections:
    """Holds of connections, and the numbers of those that were ended, in order."""

    def __init__(self, limit_bytes: int) -> None:
        self.budget = BufferBudget(limit_bytes)
        self.ended: list[int] = []
        self.holds: list[BufferHold] = []

    def open(self, source: str | None) -> BufferHold:
        number = len(self.holds)
        hold = self.budget.hold(source, lambda: self.ended.append(number))
        self.holds.append(hold)
        return hold


def test_oldest_incomplete_request_makes_room() -> None:
    connections = Connections(4 * MIB)
    for number in range(5):
        connections.open(f"192.0.2.{number}").receive(MIB)

    assert connections.ended == [0]
    assert connections.budget.total.used_bytes == 4 * MIB


def test_source_beyond_its_share_loses_its_own_connections() -> None:
    connections = Connections(16 * MIB)
    patient = connections.open("192.0.2.1")
    patient.receive(MIB)

    for _ in range(10):
        connections.open("192.0.2.2").receive(MIB)

    assert connections.ended == [1, 2, 3, 4, 5, 6]
    assert patient.size == MIB


def test_complete_requests_are_never_ended_and_the_next_is_rejected() -> None:
    connections = Connections(16 * MIB)
    for _ in range(4):
        hold = connections.open("192.0.2.1")
        hold.receive(MIB)
        hold.settle()

    with pytest.raises(LimitExceeded):
        connections.open("192.0.2.1").receive(MIB)
    connections.open("192.0.2.2").receive(MIB)
    connections.holds[0].release()
    connections.open("192.0.2.1").receive(MIB)

    assert connections.ended == []


def test_unread_response_ends_older_ones_and_is_never_rejected() -> None:
    connections = Connections(4 * MIB)
    slow, next_slow, large = (connections.open(None) for _ in range(3))
    slow.send(3 * MIB)

    next_slow.send(2 * MIB)
    next_slow.sent()
    large.send(100 * MIB)

    assert connections.ended == [0]
    assert connections.budget.total.used_bytes == 100 * MIB


def test_small_requests_are_not_counted() -> None:
    hold = Connections(MIB).open("192.0.2.1")

    hold.receive(UNCOUNTED_BYTES)

    assert hold.size == 0


def test_nothing_remains_of_sources_that_are_gone() -> None:
    connections = Connections(64 * MIB)
    for number in range(100):
        hold = connections.open(f"192.0.2.{number}")
        hold.receive(10_000)
        hold.receive(20_000)
        hold.settle()
        hold.send(30_000)
        hold.charge(f"198.51.100.{number}")
        hold.receive(10_000)
        hold.release()

    assert connections.budget.total.used_bytes == 0
    assert not connections.budget.total.waiting
    assert not connections.budget._sources
