"""Devices and keys of users of other servers: from stored lists, else from their servers.

Spec: server-server API, Device Management; End-to-End Encryption.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import RemoteFault, Unavailable
from hs.core.ids import ServerName, UserID, server_of
from hs.core.requester import Requester
from hs.lib.time_slice import TimeSlice
from hs.services.devices.remote_devices import OutgoingEdu, OutgoingMessage
from hs.services.federation.requests import users as requests
from hs.services.federation.users.device_list_storage import RemoteDeviceListWriter
from hs.services.federation.users.fetched_keys import (
    KEYS_OF_QUERY,
    FetchedKeys,
    device_objects,
    encoded_key,
    member_in,
    parse_device_list,
    parse_queried_keys,
)
from hs.services.federation.users.unknown_destinations import UnknownDestinations
from hs.services.federation_client.client import FederationClient
from hs.storage.database import Database, Tx
from hs.storage.federation import remote_devices
from hs.storage.federation.remote_devices import RemoteKeys

FEW_USERS: Final = 5
"""Up to this many new lists are fetched whole, so that the next update can be applied to them."""

MAX_USERS_ASKED: Final = 500
KEYS_TIMEOUT_S: Final = 10.0
SMALL_BYTES: Final = 2 << 20
LARGE_AT_ONCE: Final = 16

log = logging.getLogger(__name__)


class OutgoingMessageEncoder(Protocol):
    """The part of RemoteDevices that federation senders need."""

    def encode_messages(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> tuple[OutgoingEdu, ...]:
        """Return the EDUs to be stored, one for each server. Raises: BadJson."""
        ...

    def announce_messages(self, outgoing: Sequence[OutgoingEdu]) -> None:
        """Wake the senders of EDUs that were stored."""
        ...


@attrs.frozen(eq=False)
class FederatedDevices:
    """The RemoteDevices of a server with federation."""

    _client: FederationClient
    _database: Database
    _writer: RemoteDeviceListWriter
    _messages: OutgoingMessageEncoder
    _unknown: UnknownDestinations
    _large: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(LARGE_AT_ONCE), init=False
    )

    async def query(
        self, server: ServerName, requested: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> JsonObject:
        """Return a response to `/keys/query` about users of a server. Raises: RemoteFault."""
        keys = await self._keys_of(server, requested, timeout_s)
        response: JsonObject = {
            "device_keys": {
                user_id: device_objects(keys[user_id], requested[user_id]) for user_id in keys
            }
        }
        for section, usage in KEYS_OF_QUERY.items():
            response[section] = {
                user_id: orjson.loads(found.cross_signing[usage])
                for user_id, found in keys.items()
                if usage in found.cross_signing
            }
        return response

    async def claim(
        self, server: ServerName, requested: Mapping[UserID, Mapping[str, str]], timeout_s: float
    ) -> JsonObject:
        """Return the one-time keys claimed of requested devices. Raises: RemoteFault."""
        response = await requests.claim_keys(self._client, server, requested, timeout_s)
        claimed: JsonObject = {}
        for user_id, devices in requested.items():
            keys = member_in(member_in(response, "one_time_keys"), user_id)
            # Encoded, the keys of many servers take less memory.
            found = {
                device_id: orjson.Fragment(encoded)
                for device_id in devices
                if device_id in keys and (encoded := encoded_key(keys[device_id])) is not None
            }
            if found:
                claimed[user_id] = found
        return claimed

    async def cross_signing_keys(self, user_id: UserID) -> Mapping[str, Any]:
        """Return the cross-signing keys of a user, by usage; none if the server fails."""
        try:
            keys = await self._keys_of(server_of(user_id), {user_id: ()}, KEYS_TIMEOUT_S)
        except RemoteFault as fault:
            log.info("cross-signing keys of %s are unknown: %s", user_id, fault)
            return {}
        found = keys[user_id].cross_signing
        return {usage: orjson.loads(content) for usage, content in found.items()}

    async def check_destinations(
        self, requester: Requester, servers: Collection[ServerName]
    ) -> None:
        """Raise LimitExceeded if a user sends messages to too many unknown servers."""
        await self._unknown.check(requester, servers)

    def encode_messages(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> tuple[OutgoingEdu, ...]:
        """Return the EDUs to be stored, one for each server. Raises: BadJson."""
        return self._messages.encode_messages(sender, event_type, messages)

    def announce_messages(self, outgoing: Sequence[OutgoingEdu]) -> None:
        """Wake the senders of EDUs that were stored."""
        self._messages.announce_messages(outgoing)

    async def _keys_of(
        self, server: ServerName, requested: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> dict[UserID, FetchedKeys]:
        """Return the keys of all requested users, of unknown ones none. Raises: RemoteFault."""
        known, unlisted = await self._database.read(
            _load_complete, list(requested), self._client.server_name
        )
        keys = {UserID(user_id): _from_stored(user_id, known[user_id]) for user_id in known}
        missing = {user_id: requested[user_id] for user_id in requested if user_id not in keys}
        if not missing:
            return keys
        marks = await self._track(
            server, [user_id for user_id in unlisted if not requested[user_id]]
        )
        with trio.move_on_after(timeout_s):
            if marks and len(marks) <= FEW_USERS:
                for user_id, mark in marks.items():
                    response = await requests.fetch_devices(self._client, user_id, timeout_s)
                    keys[user_id] = parse_device_list(user_id, response)
                    await self._writer.store(server, [keys[user_id]], {user_id: mark})
            users = [user_id for user_id in missing if user_id not in keys]
            for start in range(0, len(users), MAX_USERS_ASKED):
                part = {user_id: missing[user_id] for user_id in users[start:][:MAX_USERS_ASKED]}
                keys.update(await self._ask(server, part, marks, timeout_s))
            return keys
        raise RemoteFault(server, f"timed out after {timeout_s:g} s")

    async def _track(self, server: ServerName, user_ids: list[UserID]) -> dict[UserID, int]:
        if not user_ids:
            return {}
        try:
            return await self._writer.track(server, user_ids)
        except Unavailable as error:
            log.info("could not store device lists of %d users: %s", len(user_ids), error)
            return {}

    async def _ask(
        self,
        server: ServerName,
        requested: Mapping[UserID, Sequence[str]],
        marks: Mapping[UserID, int],
        timeout_s: float,
    ) -> dict[UserID, FetchedKeys]:
        """Query the keys of users, and store those with marks, which are new lists."""
        response = await self._query(server, requested, timeout_s)
        keys: dict[UserID, FetchedKeys] = {}
        time_slice = TimeSlice()
        for user_id in requested:
            keys[user_id] = parse_queried_keys(user_id, response)
            await time_slice.yield_if_over()
        new = [keys[user_id] for user_id in requested if user_id in marks]
        if new:
            await self._writer.store(
                server, new, {found.user_id: marks[found.user_id] for found in new}
            )
        return keys

    async def _query(
        self, server: ServerName, requested: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> JsonObject:
        """Query keys; few responses of unusual size are received at a time."""
        query = partial(requests.query_keys, self._client, server, requested, timeout_s)
        usual = requests.usual_keys_bytes(len(requested))
        if usual <= SMALL_BYTES:
            try:
                return await query(usual)
            except RemoteFault as fault:
                # Perhaps it is too large.
                if fault.retry or fault.error is not None:
                    raise
        async with self._large:
            return await query(requests.MAX_KEYS_BYTES)


async def _load_complete(
    tx: Tx, user_ids: list[UserID], server_name: ServerName
) -> tuple[dict[str, RemoteKeys], list[UserID]]:
    """Return the keys of users with complete lists, and the users without any list."""
    lists = await remote_devices.find_lists(tx, user_ids)
    complete = [user_id for user_id, record in lists.items() if not record.is_stale]
    # The lists of users who share no room any more are deleted a moment later.
    complete = await remote_devices.users_sharing(tx, complete, server_name)
    keys = await remote_devices.load_keys(tx, complete) if complete else {}
    return keys, [user_id for user_id in user_ids if user_id not in lists]


def _from_stored(user_id: str, keys: RemoteKeys) -> FetchedKeys:
    return FetchedKeys(UserID(user_id), None, keys.devices, keys.cross_signing)
