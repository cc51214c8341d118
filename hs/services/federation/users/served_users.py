"""Profiles, devices and keys of the users of this server, for other servers.

Users of other servers have no keys here. A request about a user's devices needs no shared room: the
specification has no such rule, and an invited user's server asks before the first room is shared.

Spec: server-server API, Querying for information; Device Management; End-to-End Encryption.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.core.ids import ServerName, UserID
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.devices.device_keys import KeyDirectory
from hs.services.devices.key_objects import MASTER, SELF_SIGNING
from hs.services.devices.one_time_keys import OneTimeKeys
from hs.services.devices.user_keys import UserKeysReader
from hs.settings.sections.federation import FederationSettings
from hs.storage.database import Database
from hs.storage.devices import device_lists

MAX_USERS: Final = 10_000
MAX_CLAIMED: Final = 10_000
_UNKNOWN_USER: Final = "The user is not a user of this server"
_PUBLIC_KEYS: Final = {"master_key": MASTER, "self_signing_key": SELF_SIGNING}


@attrs.frozen(eq=False)
class ServedUsers:
    """The profiles and keys of local users, as other servers may see them."""

    _database: Database
    _profiles: Profiles
    _directory: KeyDirectory
    _one_time_keys: OneTimeKeys
    _keys: UserKeysReader
    _server_name: ServerName
    _settings: FederationSettings

    async def profile(self, user_id: UserID, field: str | None) -> Mapping[str, Any]:
        """Return a profile, or one field of it. Raises: Forbidden, NotFound, InvalidParam."""
        if not self._settings.allow_profile_lookup_over_federation:
            raise Forbidden("Other servers may not look up profiles of this server")
        self._check_local(user_id)
        if field is not None:
            return await self._profiles.get_field(user_id, field)
        return await self._profiles.get(user_id)

    async def devices(self, user_id: UserID) -> dict[str, Any]:
        """Return the devices of a user that have keys, and the keys that others may see.

        Raises: NotFound.
        """
        self._check_local(user_id)
        # Read before the keys: these are at least as new, and later changes are sent anyway.
        stream_id = await self._database.read(device_lists.last_change, user_id)
        keys = await self._keys.get_one(user_id)
        shows_names = self._settings.allow_device_name_lookup_over_federation
        devices = []
        for device_id, identity in keys.devices.items():
            device: dict[str, Any] = {
                "device_id": device_id,
                "keys": keys.render_device(device_id, None, with_names=shows_names),
            }
            if shows_names and identity.display_name is not None:
                device["device_display_name"] = identity.display_name
            devices.append(device)
        answer = {"user_id": user_id, "stream_id": stream_id, "devices": devices}
        for name, usage in _PUBLIC_KEYS.items():
            key: orjson.Fragment | None = keys.render_cross_signing(usage, None)
            if key is not None:
                answer[name] = key
        return answer

    async def query_keys(self, requested: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the response to a query of device keys. Raises: InvalidParam."""
        if len(requested) > MAX_USERS:
            raise InvalidParam(f"device_keys must not name more than {MAX_USERS} users")
        local = {
            UserID(user_id): ids for user_id, ids in requested.items() if self._is_ours(user_id)
        }
        shows_names = self._settings.allow_device_name_lookup_over_federation
        answer = await self._directory.query_local(local, None, with_names=shows_names)
        return {name: section for name, section in answer.items() if name != "user_signing_keys"}

    async def claim_keys(self, requested: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """Claim one-time keys; return those claimed by user and device. Raises: InvalidParam."""
        if sum(map(len, requested.values())) > MAX_CLAIMED:
            raise InvalidParam(f"one_time_keys must not name more than {MAX_CLAIMED} devices")
        local = {
            user_id: dict(devices)
            for user_id, devices in requested.items()
            if self._is_ours(user_id)
        }
        return await self._one_time_keys.claim_local(local)

    def _check_local(self, user_id: UserID) -> None:
        if not self._is_ours(user_id):
            raise NotFound(_UNKNOWN_USER)

    def _is_ours(self, user_id: str) -> bool:
        return user_id[:1] == "@" and user_id.partition(":")[2] == self._server_name
