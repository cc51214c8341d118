"""The user directory."""

import attrs

from hs.apis.client.directory.user_directory import UserDirectoryApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import USER_DIRECTORY
from hs.nursery.process_base import ProcessBase
from hs.services.directory.directory_progress import DirectoryProgress
from hs.services.directory.user_directory import UserDirectory, UserDirectoryUpdater


@attrs.frozen(eq=False, kw_only=True)
class DirectoryServices:
    """The search of users; `updater` is None in a process that does not update the directory."""

    users: UserDirectory
    updater: UserDirectoryUpdater | None
    part: Part


def wire_user_directory(base: ProcessBase) -> DirectoryServices:
    """Build the search of users, and the duty that keeps the directory up to date."""
    settings = base.settings
    server_name = settings.server.server_name
    progress = DirectoryProgress(base.database)
    progress.follow(base.feed)
    users = UserDirectory(base.database, progress, settings.user_directory, server_name)
    updater = base.planned(
        USER_DIRECTORY, lambda: UserDirectoryUpdater(base.database, base.feed, server_name)
    )
    duties = (
        [] if updater is None else [Duty("user directory", updater.run, plan_duty=USER_DIRECTORY)]
    )
    return DirectoryServices(
        users=users, updater=updater, part=Part(endpoints=[UserDirectoryApi(users)], duties=duties)
    )
