"""Identity keys of devices: uploaded by them, asked for by everybody else.

Spec: client-server API, End-to-End Encryption, `/keys/upload` and `/keys/query`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam, RemoteFault
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.core.requester import Requester
from hs.services.devices.device_list_writer import DeviceListWriter
from hs.services.devices.key_objects import MASTER, SELF_SIGNING, USER_SIGNING, read_device_keys
from hs.services.devices.one_time_keys import OneTimeKeys, read_upload, with_zero
from hs.services.devices.remote_devices import RemoteDevices
from hs.services.devices.user_keys import UserKeys, UserKeysReader

Wanted = Mapping[UserID, Sequence[str]]

_SECTIONS: Final = {
    "master_keys": MASTER,
    "self_signing_keys": SELF_SIGNING,
    "user_signing_keys": USER_SIGNING,
}


@attrs.frozen(eq=False)
class KeyDirectory:
    """Takes the keys of devices, and gives them out."""

    _reader: UserKeysReader
    _lists: DeviceListWriter
    _one_time_keys: OneTimeKeys
    _remote: RemoteDevices
    _server_name: ServerName

    async def upload(
        self,
        requester: Requester,
        device_keys: JsonObject | None,
        one_time_keys: JsonObject,
        fallback_keys: JsonObject,
    ) -> Mapping[str, int]:
        """Take what a device uploads; give how many one-time keys it has here.

        Raises: InvalidParam, BadJson, NotFound, Forbidden.
        """
        user_id, device_id = requester.user_id, requester.device_id
        if device_id is None:
            raise InvalidParam("Only a device can upload keys")
        content = read_device_keys(device_keys, user_id, device_id) if device_keys else None
        others = read_upload(user_id, device_id, one_time_keys, fallback_keys)
        if content is not None:
            # The writer looks as well, and changes nothing when it need not: no reading for this.
            known = self._reader.of_one_nowait(user_id)
            held = None if known is None else known.devices.get(device_id)
            if held is None or held.content != content:
                counts = await self._lists.put_device_keys(content, others)
                if counts is not None:
                    return with_zero(counts)
        return await self._one_time_keys.upload(others)

    async def query(
        self, viewer: UserID, wanted: Mapping[str, Sequence[str]], timeout_ms: int
    ) -> dict[str, Any]:
        """Give an answer of `/keys/query`; no device IDs: all of them.

        Raises: InvalidParam.
        """
        by_server: dict[ServerName, dict[UserID, Sequence[str]]] = {}
        for text, device_ids in wanted.items():
            user_id, server = UserID(text), self._server_name
            # Those in memory were parsed before, and are ours.
            if self._reader.of_one_nowait(user_id) is None:
                server = server_of(parse_user_id(text))
            by_server.setdefault(server, {})[user_id] = device_ids
        answer = await self.query_local(by_server.pop(self._server_name, {}), viewer)
        failures: dict[str, Any] = {}
        if not by_server:
            return {**answer, "failures": failures}
        async with trio.open_nursery() as nursery:
            for server, asked in by_server.items():
                nursery.start_soon(
                    self._query_remote, server, asked, timeout_ms / 1000, answer, failures
                )
        return {**answer, "failures": failures}

    async def query_local(
        self, wanted: Wanted, viewer: UserID | None, *, named: bool = True
    ) -> dict[str, dict[str, Any]]:
        """Give the keys of our users, to one of ours, or to another server (None)."""
        answer: dict[str, dict[str, Any]] = {"device_keys": {}, **{name: {} for name in _SECTIONS}}
        for user_id, keys in (await self._reader.of(wanted.keys())).items():
            device_ids = wanted[user_id]
            answer["device_keys"][user_id] = (
                {
                    device_id: keys.device_shown(device_id, viewer, named=named)
                    for device_id in device_ids
                    if device_id in keys.devices
                }
                if device_ids
                else keys.devices_shown(viewer, named=named)
            )
            if keys.cross_signing:
                _add_cross_signing(answer, keys, viewer)
        return answer

    async def _query_remote(
        self,
        server: ServerName,
        wanted: Wanted,
        timeout_s: float,
        answer: dict[str, dict[str, Any]],
        failures: dict[str, Any],
    ) -> None:
        try:
            found = await self._remote.query(server, wanted, timeout_s)
        except RemoteFault as fault:
            failures[server] = {"status": 503, "message": fault.message}
            return
        for section in ("device_keys", "master_keys", "self_signing_keys"):
            theirs = found.get(section)
            if isinstance(theirs, dict):
                answer[section].update(
                    {user_id: theirs[user_id] for user_id in wanted if user_id in theirs}
                )


def _add_cross_signing(
    answer: dict[str, dict[str, Any]], keys: UserKeys, viewer: UserID | None
) -> None:
    for section, usage in _SECTIONS.items():
        shown = keys.cross_signing_shown(usage, viewer)
        if shown is not None:
            answer[section][keys.user_id] = shown
