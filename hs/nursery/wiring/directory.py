"""Finding users, what they missed, and what they report."""

import attrs

from hs.apis.client.directory.user_directory import UserDirectoryApi
from hs.apis.client.push.notifications import NotificationsApi
from hs.apis.client.rooms.reports import ReportsApi
from hs.lib.tasks import Duty
from hs.nursery.plan import USER_DIRECTORY
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.push import Push
from hs.nursery.wiring.room_reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.services.admin.reports import Reports
from hs.services.directory.user_directory import DirectoryDuty, UserDirectory
from hs.services.push.unread.notification_list import Notifications


@attrs.frozen(eq=False, kw_only=True)
class Directory:
    """The directory of users, its keeper, and lists beside it; one process has `duties`."""

    users: UserDirectory
    notifications: Notifications
    reports: Reports
    duties: list[Duty]


def wire_directory(ground: Foundation, rooms: Rooms, reading: Reading, push: Push) -> Directory:
    """Build the user directory, notifications and reports."""
    settings, database = ground.settings, ground.database
    server_name = settings.server.server_name
    duties: list[Duty] = []
    if USER_DIRECTORY in ground.plan.duties:  # elsewhere what it collects would pile up
        keeper = DirectoryDuty(database, ground.feed, server_name)
        duties.append(Duty("user directory", keeper.run))
    return Directory(
        users=UserDirectory(database, settings.user_directory, server_name),
        notifications=Notifications(
            database,
            rooms.memberships,
            rooms.events,
            reading.visibility,
            reading.rendering,
            push.counts,
        ),
        reports=Reports(database, rooms.memberships, ground.clock),
        duties=duties,
    )


def directory_apis(directory: Directory) -> list[object]:
    """Give the endpoints."""
    return [
        UserDirectoryApi(directory.users),
        NotificationsApi(directory.notifications),
        ReportsApi(directory.reports),
    ]
