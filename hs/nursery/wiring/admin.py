"""What concerns administrators: reports, server notices, notices about the terms of use."""

import attrs

from hs.apis.client.rooms.reports import ReportsApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices, SessionServices
from hs.nursery.wiring.rooms.membership import notices_user_of
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.admin.consent_notices import POLL_S, ConsentNotices
from hs.services.admin.reports import Reports
from hs.services.admin.server_notices import ServerNotices


@attrs.frozen(eq=False, kw_only=True)
class AdminServices:
    """Reports, server notices and consent notices."""

    reports: Reports
    notices: ServerNotices
    consent_notices: ConsentNotices
    part: Part


def wire_admin(
    base: ProcessBase, rooms: Rooms, sessions: SessionServices, accounts: AccountServices
) -> AdminServices:
    """Build reports and notices."""
    settings, database, clock = base.settings, base.database, base.clock
    notices = ServerNotices(
        settings=settings.server_notices,
        notices_user=notices_user_of(settings),
        default_version=settings.rooms.default_room_version,
        database=database,
        appender=rooms.appender,
        memberships=rooms.memberships,
        profiles=accounts.profiles,
        tags=accounts.account_data,
        clock=clock,
    )
    uri_for = sessions.threepids.consent.rule.uri_for
    consent_notices = ConsentNotices(database, clock, settings.consent, uri_for, notices)
    reports = Reports(database, rooms.memberships, clock)
    return AdminServices(
        reports=reports,
        notices=notices,
        consent_notices=consent_notices,
        part=Part(endpoints=[ReportsApi(reports)], duties=_duties(base, notices, consent_notices)),
    )


def _duties(
    base: ProcessBase, notices: ServerNotices, consent_notices: ConsentNotices
) -> list[Duty]:
    if not notices.is_enabled:
        return []
    settings = base.settings.consent
    duties = [Duty("server notices user", notices.reserve, plan_duty=BACKGROUND)]
    if settings.version is not None and settings.server_notice_content:
        duties.append(
            Duty(
                "consent notices",
                consent_notices.send_due,
                plan_duty=BACKGROUND,
                period_s=POLL_S,
                at_start=False,
            )
        )
    return duties
