"""The user directory."""

from hs.apis.client.directory.user_directory import UserDirectoryApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import USER_DIRECTORY
from hs.nursery.process_base import ProcessBase
from hs.services.directory.user_directory import UserDirectory, UserDirectoryUpdater


def wire_user_directory(base: ProcessBase) -> Part:
    """Build the search of users, and the duty that keeps the directory up to date."""
    settings = base.settings
    users = UserDirectory(base.database, settings.user_directory, settings.server.server_name)
    return Part(
        endpoints=[UserDirectoryApi(users)],
        duties=base.planned(USER_DIRECTORY, lambda: _updating(base)),
    )


def _updating(base: ProcessBase) -> Duty:
    duty = UserDirectoryUpdater(base.database, base.feed, base.settings.server.server_name)
    return Duty("user directory", duty.run)
