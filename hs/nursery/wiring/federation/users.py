"""Users of other servers, and users of this server for other servers."""

from functools import partial

import attrs

from hs.apis.federation.media import ServedMediaApi
from hs.apis.federation.users import ServedUsersApi
from hs.apis.web.drain import Drain
from hs.core.streams import DEVICE_LISTS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.devices import DeviceServices
from hs.nursery.wiring.media import MediaServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.federation.users.device_list_cleanup import DeviceListCleanup
from hs.services.federation.users.device_list_fetching import DeviceListFetching
from hs.services.federation.users.device_list_storage import (
    LocalRemoteDeviceListWriter,
    RemoteDeviceListWriter,
)
from hs.services.federation.users.device_list_updates import DeviceListUpdates
from hs.services.federation.users.served_users import ServedUsers
from hs.services.federation_client.client import FederationClient


@attrs.frozen(eq=False, kw_only=True)
class RemoteDeviceLists:
    """The device lists of users of other servers: their writer, and what other servers send."""

    writer: RemoteDeviceListWriter
    updates: DeviceListUpdates
    fetching: DeviceListFetching


def wire_remote_device_lists(base: ProcessBase, client: FederationClient) -> RemoteDeviceLists:
    """Build the writer of device lists, in this process or a proxy of it."""
    owns = partial(base.ownership.is_mine, DEVICE_LISTS)
    fetching = DeviceListFetching(base.database, client, base.clock, owns)
    base.on_gained(DEVICE_LISTS, lambda matches: fetching.wake())
    writer = base.sharded(
        RemoteDeviceListWriter,
        DEVICE_LISTS,
        lambda: LocalRemoteDeviceListWriter(
            base.table(DEVICE_LISTS), base.clock, base.settings.server.server_name, fetching.wake
        ),
    )
    return RemoteDeviceLists(writer=writer, updates=DeviceListUpdates(writer), fetching=fetching)


def wire_device_list_duties(
    base: ProcessBase, lists: RemoteDeviceLists | None, rooms: Rooms
) -> Part:
    """Build the duties of a process that owns device lists."""
    if lists is None or not base.ownership.writes(DEVICE_LISTS):
        return Part()
    cleanup = DeviceListCleanup(
        database=base.database,
        feed=base.feed,
        stream=base.table(DEVICE_LISTS),
        servers=rooms.servers,
        server_name=base.settings.server.server_name,
        owns=partial(base.ownership.is_mine, DEVICE_LISTS),
        guard=base.key_guard(DEVICE_LISTS),
    )
    base.on_gained(DEVICE_LISTS, cleanup.gain)
    return Part(
        duties=[
            Duty("stale device lists", partial(lists.fetching.run, lists.writer)),
            Duty("device list cleanup", cleanup.run, cleanup.waiting),
        ]
    )


def wire_served_media(base: ProcessBase, media: MediaServices, drain: Drain) -> Part:
    """Build the endpoints of media, if this process has the media folder."""
    if not base.settings.workers.serves_media:
        return Part()
    server_name = base.settings.server.server_name
    return Part(endpoints=[ServedMediaApi(media.repository, media.thumbnails, server_name, drain)])


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
