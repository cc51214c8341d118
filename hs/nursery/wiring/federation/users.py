"""Users of other servers, and what other servers are told about users of this one."""

from hs.apis.federation.users import ServedUsersApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.devices import DeviceServices
from hs.services.federation.users.served_users import ServedUsers


def wire_served_users(
    base: ProcessBase, accounts: AccountServices, devices: DeviceServices
) -> Part:
    """Build the endpoints of profiles, devices and keys."""
    users = ServedUsers(
        database=base.database,
        profiles=accounts.profiles,
        directory=devices.directory,
        one_time_keys=devices.one_time_keys,
        keys=devices.keys,
        server_name=base.settings.server.server_name,
        settings=base.settings.federation,
    )
    return Part(endpoints=[ServedUsersApi(users)])
