"""Devices: their keys, messages and lists, cross-signing, key backups, dehydrated devices."""

import attrs

from hs.apis.client.encryption.cross_signing import CrossSigningApi
from hs.apis.client.encryption.dehydrated_device import DehydratedDeviceApi
from hs.apis.client.encryption.key_backup import KeyBackupApi
from hs.apis.client.encryption.keys import KeysApi
from hs.apis.client.encryption.to_device import ToDeviceApi
from hs.core.streams import DEVICE_LISTS, TO_DEVICE
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices, SessionServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.devices.appservice_keys import AppserviceKeys
from hs.services.devices.cross_signing import CrossSigning
from hs.services.devices.dehydrated_devices import DehydratedDevices
from hs.services.devices.device_keys import KeyDirectory
from hs.services.devices.device_list_writer import DeviceListWriter, LocalDeviceListWriter
from hs.services.devices.device_lists import DeviceLists
from hs.services.devices.device_updates import CLEANUP_PERIOD_S, DeviceCleanup, DeviceUpdates
from hs.services.devices.inbox_writer import BundleUnpacker, InboxWriter, LocalInboxWriter
from hs.services.devices.inboxes import InboxReader
from hs.services.devices.key_backup import KeyBackups
from hs.services.devices.one_time_keys import OneTimeKeys
from hs.services.devices.remote_devices import RemoteDevices
from hs.services.devices.sharded_inboxes import ShardedInboxes
from hs.services.devices.to_device import DehydratedDeviceMessages, ToDeviceMessages
from hs.services.devices.user_keys import UserKeysReader
from hs.services.rooms.store.shared_rooms import SharedRooms
from hs.services.sync.encryption_section import EncryptionSection


@attrs.frozen(eq=False, kw_only=True)
class DeviceWriters:
    """The writers of device lists and inboxes, in this process or proxies of them."""

    lists: DeviceListWriter
    inboxes: InboxWriter
    updates: DeviceUpdates
    filer: BundleUnpacker | None


@attrs.frozen(eq=False, kw_only=True)
class DeviceServices:
    """The readers of devices, and the sections of encryption in sync."""

    inboxes: InboxReader
    device_lists: DeviceLists
    encryption: EncryptionSection
    messages: ToDeviceMessages
    keys: UserKeysReader
    directory: KeyDirectory
    one_time_keys: OneTimeKeys
    part: Part


def wire_device_writers(base: ProcessBase) -> DeviceWriters:
    """Build the owners, and the watcher that sessions report to; before accounts."""
    lists = base.sharded(
        DeviceListWriter,
        DEVICE_LISTS,
        lambda: LocalDeviceListWriter(base.table(DEVICE_LISTS), base.clock),
    )
    filer: BundleUnpacker | None = None
    if base.ownership.writers(TO_DEVICE)[0] == base.plan.instance:
        filer = BundleUnpacker(base.table(TO_DEVICE), base.feed)
    inboxes = _inbox_writer(base, filer)
    updates = DeviceUpdates(lists, inboxes)
    return DeviceWriters(lists=lists, inboxes=inboxes, updates=updates, filer=filer)


def _inbox_writer(base: ProcessBase, filer: BundleUnpacker | None) -> InboxWriter:
    owners = base.owner_calls(TO_DEVICE)
    if owners is None:
        return base.owned(
            InboxWriter,
            TO_DEVICE,
            lambda: LocalInboxWriter(base.table(TO_DEVICE), base.clock, filer),
        )

    def make() -> LocalInboxWriter:
        guard = base.key_guard(TO_DEVICE)
        writer = LocalInboxWriter(base.table(TO_DEVICE), base.clock, None, guard)
        base.on_lost(TO_DEVICE, lambda matches: writer.drop_addresses())
        return writer

    return ShardedInboxes(base.by_owner(InboxWriter, TO_DEVICE, make), owners)


def wire_devices(
    base: ProcessBase,
    writers: DeviceWriters,
    rooms: Rooms,
    sessions: SessionServices,
    accounts: AccountServices,
    remote: RemoteDevices,
    services: AppserviceKeys,
) -> DeviceServices:
    """Build the readers and services; after rooms, before the notifier."""
    database, feed = base.database, base.feed
    server_name = base.settings.server.server_name
    shared_rooms = SharedRooms(database, rooms.events, rooms.memberships, rooms.tails)
    inboxes = InboxReader(database, feed, is_alone=not base.plan.shared)
    one_time_keys = OneTimeKeys(
        database, feed, writers.inboxes, remote, server_name, services=services
    )
    device_lists = DeviceLists(database, feed, shared_rooms)
    is_only_owner = base.ownership.writers(DEVICE_LISTS) == (base.plan.instance,)
    user_keys = UserKeysReader(database, feed, is_owner=is_only_owner)
    directory = KeyDirectory(
        user_keys, writers.lists, one_time_keys, remote, server_name, services=services
    )
    cross_signing = CrossSigning(user_keys, writers.lists, remote, server_name)
    dehydrated = DehydratedDevices(
        database, writers.lists, writers.inboxes, one_time_keys, DehydratedDeviceMessages(database)
    )
    messages = ToDeviceMessages(writers.inboxes, remote, server_name)
    endpoints = [
        KeysApi(directory, one_time_keys, device_lists),
        CrossSigningApi(cross_signing, accounts.lifecycle, sessions.interactive),
        ToDeviceApi(messages),
        KeyBackupApi(KeyBackups(database)),
        DehydratedDeviceApi(dehydrated),
    ]
    return DeviceServices(
        inboxes=inboxes,
        device_lists=device_lists,
        encryption=EncryptionSection(
            inboxes, device_lists, one_time_keys, base.key_writer(TO_DEVICE)
        ),
        messages=messages,
        keys=user_keys,
        directory=directory,
        one_time_keys=one_time_keys,
        part=Part(endpoints=endpoints, duties=_duties(base, writers, inboxes)),
    )


def _duties(base: ProcessBase, writers: DeviceWriters, inboxes: InboxReader) -> list[Duty]:
    cleanup = DeviceCleanup(base.database, base.clock, writers.updates, writers.inboxes)
    duties = [
        Duty("acknowledged to-device messages", inboxes.run),
        Duty(
            "device cleanup",
            cleanup.clean_up,
            plan_duty=BACKGROUND,
            period_s=CLEANUP_PERIOD_S,
            at_start=False,
        ),
    ]
    if writers.filer is not None:
        duties.append(Duty("to-device message filing", writers.filer.run, writers.filer.waiting))
    return duties
