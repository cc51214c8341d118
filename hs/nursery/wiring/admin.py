"""What concerns administrators: reports, server notices, notices about the terms of use."""

from hs.apis.client.rooms.reports import ReportsApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts import AccountServices, SessionServices
from hs.nursery.wiring.membership import notices_user_of
from hs.nursery.wiring.rooms import Rooms
from hs.services.admin.consent_notices import POLL_S, ConsentNotices
from hs.services.admin.reports import Reports
from hs.services.admin.server_notices import ServerNotices


def wire_admin(
    base: ProcessBase, rooms: Rooms, sessions: SessionServices, accounts: AccountServices
) -> Part:
    """Build reports and notices."""
    settings = base.settings
    notices = ServerNotices(
        settings=settings.server_notices,
        notices_user=notices_user_of(settings),
        default_version=settings.rooms.default_room_version,
        database=base.database,
        appender=rooms.appender,
        memberships=rooms.memberships,
        profiles=accounts.profiles,
        tags=accounts.account_data,
        clock=base.clock,
    )
    reports = ReportsApi(Reports(base.database, rooms.memberships, base.clock))
    return Part(endpoints=[reports], duties=_duties(base, sessions, notices))


def _duties(base: ProcessBase, sessions: SessionServices, notices: ServerNotices) -> list[Duty]:
    if not notices.is_enabled:
        return []
    settings = base.settings.consent
    duties = [Duty("server notices user", notices.reserve, plan_duty=BACKGROUND)]
    if settings.version is not None and settings.server_notice_content:
        uri_for = sessions.threepids.consent.rule.uri_for
        asking = ConsentNotices(base.database, base.clock, settings, uri_for, notices)
        duties.append(
            Duty(
                "consent notices",
                asking.send_due,
                plan_duty=BACKGROUND,
                period_s=POLL_S,
                at_start=False,
            )
        )
    return duties
