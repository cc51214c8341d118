"""Devices: their keys, messages and lists, cross-signing, key backups, dehydrated devices."""

import attrs

from hs.apis.client.encryption.cross_signing import CrossSigningApi
from hs.apis.client.encryption.dehydrated_device import DehydratedDeviceApi
from hs.apis.client.encryption.key_backup import KeyBackupApi
from hs.apis.client.encryption.keys import KeysApi
from hs.apis.client.encryption.to_device import ToDeviceApi
from hs.lib.tasks import Duty, every
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.rooms import Rooms
from hs.repl.streams import DEVICE_LISTS, TO_DEVICE
from hs.services.devices.cross_signing import CrossSigning
from hs.services.devices.dehydrated_devices import DehydratedDevices
from hs.services.devices.device_keys import KeyDirectory
from hs.services.devices.device_list_writer import DeviceListWriter, LocalDeviceLists
from hs.services.devices.device_lists import DeviceLists
from hs.services.devices.device_updates import UPKEEP_PERIOD_S, DeviceUpdates, DeviceUpkeep
from hs.services.devices.inbox_writer import BundleFiler, InboxWriter, LocalInboxes
from hs.services.devices.inboxes import Inboxes
from hs.services.devices.key_backup import KeyBackups
from hs.services.devices.one_time_keys import OneTimeKeys
from hs.services.devices.remote_devices import RemoteDevices
from hs.services.devices.to_device import DehydratedEvents, ToDevice
from hs.services.devices.user_keys import UserKeysReader
from hs.services.rooms.store.shared_rooms import RoomNeighbours
from hs.services.sync.encryption_section import Encryption


@attrs.frozen(eq=False, kw_only=True)
class DeviceWriters:
    """The owners of what devices write, here or in other processes."""

    lists: DeviceListWriter
    inboxes: InboxWriter
    updates: DeviceUpdates
    filer: BundleFiler | None


@attrs.frozen(eq=False, kw_only=True)
class Devices:
    """What the endpoints, sync and federation need of devices."""

    writers: DeviceWriters
    to_device: ToDevice
    inboxes: Inboxes
    one_time_keys: OneTimeKeys
    device_lists: DeviceLists
    user_keys: UserKeysReader
    directory: KeyDirectory
    cross_signing: CrossSigning
    backups: KeyBackups
    dehydrated: DehydratedDevices
    encryption: Encryption
    upkeep: DeviceUpkeep

    @property
    def duties(self) -> list[Duty]:
        """Give what every process does."""
        duties = [Duty("deleting acknowledged messages", self.inboxes.run)]
        filer = self.writers.filer
        if filer is not None:
            duties.append(Duty("filing messages to many devices", filer.run, filer.waiting))
        return duties

    @property
    def chores(self) -> list[Duty]:
        """Give what one process does now and then."""

        async def tidy() -> None:
            await every(UPKEEP_PERIOD_S, self.upkeep.tidy)

        return [Duty("tidying up after devices", tidy)]


def wire_device_writers(ground: Foundation) -> DeviceWriters:
    """Build the owners, and the watcher that sessions report to; before accounts."""
    clock = ground.clock
    lists = ground.owned(
        DeviceListWriter,
        DEVICE_LISTS,
        lambda: LocalDeviceLists(ground.table(DEVICE_LISTS), clock),
    )
    filer: BundleFiler | None = None

    def make_inboxes() -> LocalInboxes:
        nonlocal filer
        table = ground.table(TO_DEVICE)
        filer = BundleFiler(table, ground.feed)
        return LocalInboxes(table, clock, filer)

    inboxes = ground.owned(InboxWriter, TO_DEVICE, make_inboxes)
    updates = DeviceUpdates(lists, inboxes)
    return DeviceWriters(lists=lists, inboxes=inboxes, updates=updates, filer=filer)


def wire_devices(
    ground: Foundation, writers: DeviceWriters, rooms: Rooms, remote: RemoteDevices
) -> Devices:
    """Build the readers and services; after rooms, before the notifier."""
    database, feed = ground.database, ground.feed
    server_name = ground.settings.server.server_name
    neighbours = RoomNeighbours(database, rooms.events, rooms.memberships, rooms.tails)
    inboxes = Inboxes(database, feed, is_alone=not ground.plan.shared)
    one_time_keys = OneTimeKeys(database, feed, writers.inboxes, remote, server_name)
    device_lists = DeviceLists(database, feed, neighbours)
    user_keys = UserKeysReader(database, feed, is_owner=ground.ownership.is_mine(DEVICE_LISTS))
    return Devices(
        writers=writers,
        to_device=ToDevice(writers.inboxes, remote, server_name),
        inboxes=inboxes,
        one_time_keys=one_time_keys,
        device_lists=device_lists,
        user_keys=user_keys,
        directory=KeyDirectory(user_keys, writers.lists, one_time_keys, remote, server_name),
        cross_signing=CrossSigning(user_keys, writers.lists, remote, server_name),
        backups=KeyBackups(database),
        dehydrated=DehydratedDevices(
            database, writers.lists, writers.inboxes, one_time_keys, DehydratedEvents(database)
        ),
        encryption=Encryption(inboxes, device_lists, one_time_keys),
        upkeep=DeviceUpkeep(database, ground.clock, writers.updates, writers.inboxes),
    )


def device_apis(devices: Devices, accounts: Accounts) -> list[object]:
    """Give the endpoints."""
    return [
        KeysApi(devices.directory, devices.one_time_keys, devices.device_lists),
        CrossSigningApi(devices.cross_signing, accounts.lifecycle, accounts.identity.interactive),
        ToDeviceApi(devices.to_device),
        KeyBackupApi(devices.backups),
        DehydratedDeviceApi(devices.dehydrated),
    ]
