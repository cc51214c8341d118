"""What happens to memberships by itself: leavers forget, invites are accepted."""

from hs.lib.tasks import Duty
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.room_actions import RoomActions
from hs.nursery.wiring.rooms import Rooms
from hs.repl.streams import CACHES, EVENTS
from hs.services.rooms.membership.auto_accept_invites import AutoAccept
from hs.services.rooms.membership.forget_on_leave import ForgettingLeavers
from hs.settings.sections.workers import main_or


def membership_duties(
    ground: Foundation, rooms: Rooms, accounts: Accounts, actions: RoomActions
) -> list[Duty]:
    """Give what this process does."""
    duties: list[Duty] = []
    if ground.settings.rooms.forget_rooms_on_leave and ground.ownership.writes(EVENTS):
        leavers = ForgettingLeavers(
            ground.database,
            ground.feed,
            ground.memory(CACHES),
            rooms.memberships.is_local,
            lambda room_id: ground.ownership.is_mine(EVENTS, room_id),
        )
        duties.append(Duty("leavers forget", leavers.run))
    if _accepts(ground):
        accept = AutoAccept(
            ground.settings.auto_accept,
            ground.feed,
            rooms.events,
            rooms.memberships,
            actions.membership,
            accounts.account_data,
        )
        duties.append(Duty("accepting invites", accept.run))
    return duties


def _accepts(ground: Foundation) -> bool:
    settings = ground.settings.auto_accept
    if not settings.enabled:
        return False
    if settings.worker_to_run_on:
        return main_or(settings.worker_to_run_on) == ground.plan.instance
    return BACKGROUND in ground.plan.duties
