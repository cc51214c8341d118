"""What the server tells its users."""

from hs.lib.tasks import Duty, every
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.notices_user import notices_user_of
from hs.nursery.wiring.rooms import Rooms
from hs.services.admin.consent_notices import EVERY_S, ConsentNotices
from hs.services.admin.server_notices import ServerNotices


def wire_notices(ground: Foundation, rooms: Rooms, accounts: Accounts) -> ServerNotices:
    """Build what sends notices, in every process."""
    settings = ground.settings
    return ServerNotices(
        settings=settings.server_notices,
        notices_user=notices_user_of(settings),
        default_version=settings.rooms.default_room_version,
        database=ground.database,
        appender=rooms.appender,
        memberships=rooms.memberships,
        profiles=accounts.profiles,
        tags=accounts.account_data,
        clock=ground.clock,
    )


def notice_duties(ground: Foundation, notices: ServerNotices) -> list[Duty]:
    """Give what one process does at its start: it takes the name that notices come from."""
    if not notices.is_enabled or BACKGROUND not in ground.plan.duties:
        return []
    return [Duty("user of the server notices", notices.reserve)]


def consent_duties(ground: Foundation, notices: ServerNotices, accounts: Accounts) -> list[Duty]:
    """Give what one process does so that users hear of the terms."""
    settings = ground.settings.consent
    is_wanted = settings.version is not None and settings.server_notice_content
    if not notices.is_enabled or not is_wanted or BACKGROUND not in ground.plan.duties:
        return []
    rule = accounts.identity.proving.consent.rule
    asking = ConsentNotices(ground.database, ground.clock, settings, rule.uri_for, notices)

    async def ask() -> None:
        await every(EVERY_S, asking.ask)

    return [Duty("notices of the terms", ask)]
