"""The devices of a composed process, with real sessions.

async with open_devices(database) as server:
    phone = await server.device(ALICE, "PHONE")          # its access token
    answer = await server.client.post("/_matrix/client/v3/keys/upload", {...}, token=phone)
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.signing.keys import SigningKey
from hs.nursery.wiring.devices import DeviceServices
from hs.services.accounts.sessions.sessions import RequestedDevice
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.device_updates import DeviceUpdates
from hs.services.devices.inbox_writer import BundleUnpacker, InboxWriter
from hs.services.sync.sliding.request import SlidingExtensionsRequest, SlidingRequest
from hs.services.sync.sync_context import SyncRequest
from hs.settings.settings import Settings
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx
from tests.support.composition import SETTINGS, Neighbourhood
from tests.support.rooms import World, open_world
from tests.support.web import WebClient, WebResponse

V3 = "/_matrix/client/v3"
PASSWORD_OF_ALL = "open sesame"
PASSWORD_HASH = "$2b$04$qVQfBtGp7dPaPv/YsROt7eiEsbMa9ejA3G181Jb1VIW2Fl/VQV8xW"


@attrs.frozen(eq=False)
class Process:
    """The devices of a process, and a client of its endpoints."""

    world: World
    client: WebClient

    @property
    def services(self) -> DeviceServices:
        """The services of devices."""
        return self.world.process.services.devices

    @property
    def lists(self) -> DeviceListWriter:
        """The writer of device lists, or a proxy of it."""
        return self.world.process.services.core.device_writers.lists

    @property
    def inboxes(self) -> InboxWriter:
        """The writer of inboxes, or a proxy of it."""
        return self.world.process.services.core.device_writers.inboxes

    @property
    def updates(self) -> DeviceUpdates:
        """The watcher of sessions that announces devices and deletes their data."""
        return self.world.process.services.core.device_writers.updates

    @property
    def filer(self) -> BundleUnpacker:
        """The duty of the owner that unpacks bundles of messages."""
        filer = self.world.process.services.core.device_writers.filer
        assert filer is not None, "this process writes no inboxes"
        return filer

    async def clean_up(self) -> None:
        """Run the cleanup of devices once."""
        await self.world.process.run_duty("device cleanup")

    async def device(self, user_id: UserID, device_id: str, name: str | None = None) -> str:
        """Log in a device and return its access token."""
        await self.world.database.write(_ensure_user, user_id)
        device = RequestedDevice(device_id=device_id, display_name=name)
        sessions = self.world.process.services.core.sessions.sessions
        return (await sessions.open(user_id, device)).access_token

    async def log_out(self, user_id: UserID, *device_ids: str) -> None:
        """Delete devices."""
        sessions = self.world.process.services.core.sessions.sessions
        await sessions.remove_devices(user_id, list(device_ids))

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
        return orjson.loads(await self.world.process.services.sync.sync.sync(request))

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
        sliding = self.world.process.services.sync.sliding
        return orjson.loads(await sliding.sync(Requester(user_id, device_id, 1), request))


async def _ensure_user(tx: Tx, user_id: UserID) -> None:
    if await users.find_user(tx, user_id) is None:
        await users.insert_user(tx, UserRecord(user_id, PASSWORD_HASH, 0))


@asynccontextmanager
async def open_devices(
    database: Database, settings: Settings = SETTINGS, neighbours: Neighbourhood | None = None
) -> AsyncIterator[Process]:
    """Start a process; another one on the same database afterwards is a restart."""
    async with open_world(database, settings, neighbours=neighbours) as world:
        yield Process(world, world.process.client())


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
