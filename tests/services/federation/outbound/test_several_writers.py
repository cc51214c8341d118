"""The sender of a server whose receipts and device lists have several writers."""

from hs.core.ids import server_of
from hs.services.federation.outbound.destination import Destination, QueuedEdu
from tests.support.peers import CORA


def test_change_of_a_slower_writer_is_found_when_the_destination_catches_up() -> None:
    destination = Destination(server_of(CORA))
    behind = destination.fall_behind(now_ms=0, events_after=0, devices_after=12)
    behind.is_stored = True

    destination.add_edu("change", QueuedEdu(b"{}", devices_at=8))

    assert (behind.devices_after, behind.is_stored) == (7, False)
