"""Identity keys of devices: upload and query.

Spec: client-server API, End-to-End Encryption, `/keys/upload` and `/keys/query`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam, RemoteFault
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.core.requester import Requester
from hs.lib.time_slice import TimeSlice
from hs.services.devices.appservice_keys import AppserviceKeys, NoAppserviceKeys
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.key_objects import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    parse_device_keys,
    public_key_of,
)
from hs.services.devices.one_time_keys import OneTimeKeys, parse_key_upload, with_required_count
from hs.services.devices.remote_devices import AnswerBudget, RemoteDevices, ask_servers
from hs.services.devices.user_keys import UserKeys, UserKeysReader

MAX_USERS_AT_ONCE: Final = 500
"""Users whose keys are read together; other tasks run in between."""

DeviceQuery = Mapping[UserID, Sequence[str]]

_SECTIONS: Final = {
    "master_keys": MASTER,
    "self_signing_keys": SELF_SIGNING,
    "user_signing_keys": USER_SIGNING,
}


@attrs.frozen(eq=False)
class KeyDirectory:
    """The directory of device keys, local and remote."""

    _reader: UserKeysReader
    _lists: DeviceListWriter
    _one_time_keys: OneTimeKeys
    _remote: RemoteDevices
    _server_name: ServerName
    _services: AppserviceKeys = attrs.field(factory=NoAppserviceKeys, kw_only=True)

    async def upload(
        self,
        requester: Requester,
        device_keys: JsonObject | None,
        one_time_keys: JsonObject,
        fallback_keys: JsonObject,
    ) -> Mapping[str, int]:
        """Store the keys that a device uploads; return its one-time key counts.

        Raises: InvalidParam, BadJson, NotFound, Forbidden.
        """
        user_id, device_id = requester.user_id, requester.device_id
        if device_id is None:
            raise InvalidParam("Keys can be uploaded with the access token of a device only")
        content = parse_device_keys(device_keys, user_id, device_id) if device_keys else None
        other_keys = parse_key_upload(user_id, device_id, one_time_keys, fallback_keys)
        if content is not None:
            # An optimisation for cached keys only: the writer ignores unchanged keys as well.
            cached = self._reader.get_one_nowait(user_id)
            stored = None if cached is None else cached.devices.get(device_id)
            if stored is None or stored.content != content:
                counts = await self._lists.put_device_keys(user_id, content, other_keys)
                if counts is not None:
                    return with_required_count(counts)
        return await self._one_time_keys.upload(other_keys)

    async def query(
        self, viewer: UserID, requested: Mapping[str, Sequence[str]], timeout_ms: int
    ) -> dict[str, Any]:
        """Return the response to `/keys/query`; an empty list means all devices of the user.

        Raises: InvalidParam.
        """
        by_server: dict[ServerName, dict[UserID, Sequence[str]]] = {}
        time_slice = TimeSlice()
        for text, device_ids in requested.items():
            await time_slice.yield_if_over()
            user_id, server = UserID(text), self._server_name
            # Cached users are local; their IDs have been validated.
            if self._reader.get_one_nowait(user_id) is None:
                server = server_of(parse_user_id(text))
            by_server.setdefault(server, {})[user_id] = device_ids
        answer = await self.query_local(by_server.pop(self._server_name, {}), viewer)
        failures: dict[str, Any] = {}
        if not by_server:
            return {**answer, "failures": failures}
        budget = AnswerBudget()

        async def query_server(server: ServerName) -> None:
            users = by_server[server]
            try:
                await self._query_remote(server, users, timeout_ms / 1000, answer, budget)
            except RemoteFault as fault:
                failures[server] = {"status": 503, "message": fault.message}

        await ask_servers(by_server, query_server)
        await self._add_own_signatures(viewer, answer["master_keys"])
        return {**answer, "failures": failures}

    async def query_local(
        self, requested: DeviceQuery, viewer: UserID | None, *, with_names: bool = True
    ) -> dict[str, dict[str, Any]]:
        """Return the keys of local users, for a local viewer or for another server (None)."""
        answer: dict[str, dict[str, Any]] = {"device_keys": {}, **{name: {} for name in _SECTIONS}}
        of_services = await self._services.query(requested)
        devices_of_services = of_services.get("device_keys", {})
        time_slice = TimeSlice()
        all_users = list(requested)
        for start in range(0, len(all_users), MAX_USERS_AT_ONCE):
            user_ids = all_users[start : start + MAX_USERS_AT_ONCE]
            for user_id, keys in (await self._reader.get(user_ids)).items():
                device_ids = requested[user_id]
                if not device_ids and user_id in devices_of_services:
                    device_ids = tuple(keys.devices)
                answer["device_keys"][user_id] = _render(
                    keys, device_ids, viewer, with_names=with_names
                )
                if keys.cross_signing:
                    _add_cross_signing(answer, keys, viewer)
                await time_slice.yield_if_over()
        for user_id, devices in devices_of_services.items():
            shown = devices if with_names else _without_unsigned(devices)
            uploaded = answer["device_keys"].get(user_id)
            stored = uploaded if isinstance(uploaded, dict) else {}
            answer["device_keys"][user_id] = {**stored, **shown}
        for section in _SECTIONS:
            for user_id, key in of_services.get(section, {}).items():
                if section != "user_signing_keys" or user_id == viewer:
                    answer[section][user_id] = key
        return answer

    async def _add_own_signatures(self, viewer: UserID, master_keys: dict[str, Any]) -> None:
        """Add the viewer's signatures on the master keys of users of other servers."""
        remote = [user_id for user_id, key in master_keys.items() if isinstance(key, dict)]
        for signature in await self._reader.signatures_by(viewer, remote):
            key = master_keys[signature.target_user_id]
            if signature.target_id == public_key_of(key):
                by_signer = key.get("signatures")
                signatures = by_signer if isinstance(by_signer, dict) else {}
                own = {**(signatures.get(viewer) or {}), signature.key_id: signature.signature}
                key["signatures"] = {**signatures, viewer: own}

    async def _query_remote(
        self,
        server: ServerName,
        requested: DeviceQuery,
        timeout_s: float,
        answer: dict[str, dict[str, Any]],
        budget: AnswerBudget,
    ) -> None:
        budget.check(server)
        response = await self._remote.query(server, requested, timeout_s)
        for section in ("device_keys", "master_keys", "self_signing_keys"):
            members = response.get(section)
            if isinstance(members, dict):
                budget.take(server, members)
                answer[section].update(
                    {user_id: members[user_id] for user_id in requested if user_id in members}
                )


def _render(
    keys: UserKeys, device_ids: Sequence[str], viewer: UserID | None, *, with_names: bool
) -> orjson.Fragment | dict[str, orjson.Fragment]:
    if not device_ids:
        return keys.render_devices(viewer, with_names=with_names)
    return {
        device_id: keys.render_device(device_id, viewer, with_names=with_names)
        for device_id in device_ids
        if device_id in keys.devices
    }


def _without_unsigned(devices: Mapping[str, JsonObject]) -> dict[str, JsonObject]:
    return {
        device_id: {name: keys[name] for name in keys if name != "unsigned"}
        for device_id, keys in devices.items()
    }


def _add_cross_signing(
    answer: dict[str, dict[str, Any]], keys: UserKeys, viewer: UserID | None
) -> None:
    for section, usage in _SECTIONS.items():
        key = keys.render_cross_signing(usage, viewer)
        if key is not None:
            answer[section][keys.user_id] = key
