"""Devices over a World, with their endpoints, `/sync` and sliding sync.

async with open_devices(database) as server:
    phone = await server.device(ALICE, "PHONE")          # also its access token
    answer = await server.client.post("/_matrix/client/v3/keys/upload", {...}, token=phone)
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import trio

from hs.apis.client.encryption.cross_signing import CrossSigningApi
from hs.apis.client.encryption.dehydrated_device import DehydratedDeviceApi
from hs.apis.client.encryption.key_backup import KeyBackupApi
from hs.apis.client.encryption.keys import KeysApi
from hs.apis.client.encryption.to_device import ToDeviceApi
from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.signing.keys import SigningKey
from hs.core.streams import DEVICE_LISTS, TO_DEVICE, DeviceListRow, ToDeviceRow
from hs.repl.inproc import InProcHub
from hs.repl.writers import TableWriter
from hs.services.accounts.sessions.interactive_auth import PASSWORD, InteractiveAuth, StageAttempt
from hs.services.devices.cross_signing import CrossSigning
from hs.services.devices.dehydrated_devices import DehydratedDevices
from hs.services.devices.device_keys import KeyDirectory
from hs.services.devices.device_list_writer import DeviceListWriter, LocalDeviceListWriter
from hs.services.devices.device_lists import DeviceLists
from hs.services.devices.device_updates import DeviceCleanup, DeviceUpdates
from hs.services.devices.inbox_writer import BundleUnpacker, InboxWriter, LocalInboxWriter
from hs.services.devices.inboxes import InboxReader
from hs.services.devices.key_backup import KeyBackups
from hs.services.devices.one_time_keys import OneTimeKeys
from hs.services.devices.remote_devices import NoRemoteDevices
from hs.services.devices.to_device import DehydratedDeviceMessages, ToDeviceMessages
from hs.services.devices.user_keys import UserKeysReader
from hs.services.rooms.store.shared_rooms import SharedRooms
from hs.services.sync.assembly import RoomReaders, SyncSources, make_sync
from hs.services.sync.encryption_section import EncryptionSection
from hs.services.sync.notifier import Notifier
from hs.services.sync.sliding.assembly import make_sliding_sync
from hs.services.sync.sliding.request import SlidingExtensionsRequest, SlidingRequest
from hs.services.sync.sliding.sliding_sync import SlidingSync
from hs.services.sync.sync_context import SyncRequest
from hs.services.sync.sync_service import SyncService
from hs.settings.sections.accounts import ReauthSettings
from hs.storage.database import Database
from hs.storage.devices import devices
from tests.support.reading import readers_of
from tests.support.rooms import SERVER, World, open_world
from tests.support.syncing import PresenceTable, Tables
from tests.support.web import Tokens, WebClient, WebResponse, client_for

V3 = "/_matrix/client/v3"
PASSWORD_OF_ALL = "open sesame"


class SharedPasswordStage:
    """A password stage with one password for all users."""

    async def check(self, attempt: StageAttempt) -> None:
        if attempt.auth.get("password") != PASSWORD_OF_ALL:
            raise Forbidden("Wrong password")

    def flows(self) -> Sequence[Sequence[str]]:
        return [[PASSWORD]]


@attrs.define(eq=False)
class Process:
    """The readers of one process, the endpoints, `/sync` and sliding sync."""

    world: World
    lists: DeviceListWriter
    inboxes: InboxWriter
    updates: DeviceUpdates
    tokens: Tokens
    to_device: ToDeviceMessages
    one_time_keys: OneTimeKeys
    device_lists: DeviceLists
    user_keys: UserKeysReader
    upkeep: DeviceCleanup
    service: SyncService
    sliding: SlidingSync
    client: WebClient
    filer: BundleUnpacker = attrs.field(init=False)  # of the owner only

    async def device(self, user_id: UserID, device_id: str, name: str | None = None) -> str:
        """Create a device and return its access token."""
        database = self.world.database
        now_ms = self.world.clock.now_ms()
        if await database.write(devices.ensure, user_id, device_id, name, now_ms):
            await self.updates.devices_changed(user_id, [device_id])
        token = f"{user_id} {device_id}"
        self.tokens.requesters[token] = Requester(user_id, device_id, 1)
        return token

    async def log_out(self, user_id: UserID, *device_ids: str) -> None:
        """Delete devices."""
        await self.world.database.write(devices.delete, user_id, list(device_ids))
        await self.updates.devices_removed(user_id, list(device_ids))

    async def upload(self, token: str, **keys: Any) -> WebResponse:
        """Upload keys."""
        return await self.client.post(f"{V3}/keys/upload", keys, token=token)

    async def query(self, token: str, *user_ids: UserID) -> Any:
        """Query all keys of users."""
        query: JsonObject = {"device_keys": {user_id: [] for user_id in user_ids}}
        response = await self.client.post(f"{V3}/keys/query", query, token=token)
        assert response.status == 200, response.body
        return response.json

    async def claim(
        self, token: str, user_id: UserID, device_id: str, algorithm: str = "signed_curve25519"
    ) -> list[str]:
        """Claim a one-time key of a device and return the IDs of the returned keys."""
        claim = {"one_time_keys": {user_id: {device_id: algorithm}}}
        response = await self.client.post(f"{V3}/keys/claim", claim, token=token)
        assert response.status == 200, response.body
        return list(response.json["one_time_keys"].get(user_id, {}).get(device_id, {}))

    async def send(
        self, token: str, txn_id: str, messages: Mapping[Any, Any], event_type: str = "m.test"
    ) -> WebResponse:
        """Send to-device messages."""
        return await self.client.put(
            f"{V3}/sendToDevice/{event_type}/{txn_id}", {"messages": messages}, token=token
        )

    async def sync(
        self, user_id: UserID, device_id: str | None, since: str | None = None, timeout_ms: int = 0
    ) -> Any:
        """Call `/sync` and return the parsed response."""
        request = SyncRequest(Requester(user_id, device_id, 1), since, timeout_ms)
        return orjson.loads(await self.service.sync(request))

    async def slide(
        self,
        user_id: UserID,
        device_id: str,
        extensions: SlidingExtensionsRequest,
        pos: str | None = None,
        timeout_ms: int = 0,
    ) -> Any:
        """Call sliding sync with extensions only and return the parsed response."""
        request = SlidingRequest(pos=pos, extensions=extensions, timeout_ms=timeout_ms)
        requester = Requester(user_id, device_id, 1)
        return orjson.loads(await self.sliding.sync(requester, request))


@asynccontextmanager
async def open_devices(database: Database, hub: InProcHub | None = None) -> AsyncIterator[Process]:
    """Start the rooms and devices parts of a server."""
    hub = hub or InProcHub()
    async with open_world(database, hub=hub) as world:
        transport, now_ms = hub.join(world.feed), world.clock.now_ms
        lists: TableWriter[DeviceListRow] = TableWriter(
            DEVICE_LISTS, "main", database, transport, now_ms
        )
        inboxes: TableWriter[ToDeviceRow] = TableWriter(
            TO_DEVICE, "main", database, transport, now_ms
        )
        filer = BundleUnpacker(inboxes, world.feed)
        process = make_process(
            world,
            LocalDeviceListWriter(lists, world.clock),
            LocalInboxWriter(inboxes, world.clock, filer),
        )
        process.filer = filer
        async with trio.open_nursery() as nursery:
            await nursery.start(lists.run)
            await nursery.start(inboxes.run)
            yield process
            nursery.cancel_scope.cancel()


def make_process(
    world: World, lists: DeviceListWriter, inboxes: InboxWriter, *, is_owner: bool = True
) -> Process:
    """Build the services of one process, before its first event or after a restart."""
    database, feed = world.database, world.feed
    reading = readers_of(world)
    remote, tokens = NoRemoteDevices(), Tokens()
    updates = DeviceUpdates(lists, inboxes)
    neighbours = SharedRooms(database, world.events, reading.memberships, reading.tails)
    to_device = ToDeviceMessages(inboxes, remote, SERVER)
    waiting = InboxReader(database, feed)
    one_time_keys = OneTimeKeys(database, feed, inboxes, remote, SERVER)
    device_lists = DeviceLists(database, feed, neighbours)
    user_keys = UserKeysReader(database, feed, is_owner=is_owner)
    encryption = EncryptionSection(waiting, device_lists, one_time_keys)
    tables = Tables(feed)
    readers = RoomReaders(
        database,
        feed,
        world.events,
        world.states,
        reading.memberships,
        reading.tails,
        reading.rendering,
        reading.visibility,
    )
    sources = SyncSources(
        account_data=tables,
        push_rules=tables,
        filters=tables,
        receipts=tables,
        typing=tables,
        presence=PresenceTable(tables),
        counts=tables,
        extensions=(encryption,),
    )
    notifier = Notifier(feed)
    return Process(
        world=world,
        lists=lists,
        inboxes=inboxes,
        updates=updates,
        tokens=tokens,
        to_device=to_device,
        one_time_keys=one_time_keys,
        device_lists=device_lists,
        user_keys=user_keys,
        upkeep=DeviceCleanup(database, world.clock, updates, inboxes),
        service=make_sync(readers, sources, notifier),
        sliding=make_sliding_sync(readers, sources, notifier, world.clock, encryption=encryption),
        client=_client(
            world, lists, inboxes, one_time_keys, device_lists, user_keys, to_device, tokens
        ),
    )


def _client(
    world: World,
    lists: DeviceListWriter,
    inboxes: InboxWriter,
    one_time_keys: OneTimeKeys,
    device_lists: DeviceLists,
    user_keys: UserKeysReader,
    to_device: ToDeviceMessages,
    tokens: Tokens,
) -> WebClient:
    database, remote, sesame = world.database, NoRemoteDevices(), SharedPasswordStage()
    return client_for(
        KeysApi(
            KeyDirectory(user_keys, lists, one_time_keys, remote, SERVER),
            one_time_keys,
            device_lists,
        ),
        CrossSigningApi(
            CrossSigning(user_keys, lists, remote, SERVER),
            sesame,
            InteractiveAuth(database, world.clock, ReauthSettings(), {PASSWORD: sesame}),
        ),
        ToDeviceApi(to_device),
        KeyBackupApi(KeyBackups(database)),
        DehydratedDeviceApi(
            DehydratedDevices(
                database, lists, inboxes, one_time_keys, DehydratedDeviceMessages(database)
            )
        ),
        tokens=tokens,
    )


@attrs.frozen
class KeyPair:
    """An Ed25519 key that signs as a user."""

    user_id: UserID
    key: SigningKey
    name: str  # the key ID without its algorithm

    @classmethod
    def of_device(cls, user_id: UserID, device_id: str, seed: int) -> "KeyPair":
        """Return the key of a device."""
        return cls(user_id, SigningKey.from_seed("x", bytes([seed]) * 32), device_id)

    @classmethod
    def of_user(cls, user_id: UserID, seed: int) -> "KeyPair":
        """Return a cross-signing key, whose ID is its public key."""
        key = SigningKey.from_seed("x", bytes([seed]) * 32)
        return cls(user_id, key, key.verify_key.base64)

    @property
    def public(self) -> str:
        """The public key."""
        return self.key.verify_key.base64

    def signing(self, content: Mapping[str, Any]) -> JsonObject:
        """Return an object with the signature of this key as its only signature."""
        bare = {
            name: value for name, value in content.items() if name not in ("signatures", "unsigned")
        }
        signature = self.key.sign(canonical_json(bare))
        return {**bare, "signatures": {self.user_id: {f"ed25519:{self.name}": signature}}}

    def device_keys(self) -> JsonObject:
        """Return the signed device keys."""
        content = {
            "user_id": self.user_id,
            "device_id": self.name,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": {f"ed25519:{self.name}": self.public},
        }
        return self.signing(content)

    def usable_as(self, usage: str) -> JsonObject:
        """Return the cross-signing key object."""
        return {
            "user_id": self.user_id,
            "usage": [usage],
            "keys": {f"ed25519:{self.public}": self.public},
        }


def plain_keys(user_id: UserID, device_id: str) -> JsonObject:
    """Return the smallest valid device keys."""
    return {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": [],
        "keys": {},
        "signatures": {},
    }


def one_time_keys(*numbers: int, algorithm: str = "signed_curve25519") -> JsonObject:
    """Return one-time keys."""
    return {f"{algorithm}:{n:04}": {"key": f"public {n}"} for n in numbers}
