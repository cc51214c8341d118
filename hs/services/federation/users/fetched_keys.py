"""Device lists and keys as other servers send them, checked.

Keys that name another user or device than they are sent for are left out. Signatures are not
checked: clients do not trust servers and check them anyway.

Spec: server-server API, Device Management; End-to-End Encryption.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard

import attrs
import orjson

from hs.core.canonical_json import encode_lenient
from hs.core.errors import BadJson, InvalidParam, RemoteFault
from hs.core.ids import UserID, server_of
from hs.services.devices.key_objects import MASTER, MAX_IDENTITY_BYTES, SELF_SIGNING

MAX_DEVICES: Final = 2_000
MAX_PREV_IDS: Final = 100
MAX_ID_CHARS: Final = 255
_MAX_POSITION: Final = 2**53
_OF_DEVICE_LIST: Final = {"master_key": MASTER, "self_signing_key": SELF_SIGNING}
KEYS_OF_QUERY: Final = {"master_keys": MASTER, "self_signing_keys": SELF_SIGNING}


@attrs.frozen
class FetchedKeys:
    """The keys of a user: of devices by ID, cross-signing keys by usage, all as JSON.

    `stream_id` is the last update that they include, if the server said so.
    """

    user_id: UserID
    stream_id: int | None
    devices: dict[str, bytes]
    cross_signing: dict[str, bytes]


@attrs.frozen
class DeviceUpdate:
    """A change of one device; without `keys` it has none, or was deleted."""

    user_id: UserID
    device_id: str
    stream_id: int
    prev_ids: tuple[int, ...]
    keys: bytes | None


def parse_device_list(user_id: UserID, response: Mapping[str, Any]) -> FetchedKeys:
    """Return the keys in a response to `/user/devices`. Raises: RemoteFault."""
    listed, stream_id = response.get("devices"), response.get("stream_id")
    if response.get("user_id", user_id) != user_id or not isinstance(listed, list):
        raise RemoteFault(server_of(user_id), "its response is not the device list of the user")
    if len(listed) > MAX_DEVICES:
        raise _too_many_devices(user_id)
    devices = {}
    for device in listed:
        if not isinstance(device, dict) or not _is_id(device.get("device_id")):
            continue
        keys = _device_keys(user_id, device["device_id"], device.get("keys"), _name_of(device))
        if keys is not None:
            devices[device["device_id"]] = keys
    return FetchedKeys(
        user_id,
        stream_id if _is_position(stream_id) else None,
        devices,
        parse_signing_keys(user_id, response),
    )


def parse_queried_keys(user_id: UserID, response: Mapping[str, Any]) -> FetchedKeys:
    """Return the keys of a user in a response to `/user/keys/query`. Raises: RemoteFault."""
    listed = member_in(response.get("device_keys"), user_id)
    if len(listed) > MAX_DEVICES:
        raise _too_many_devices(user_id)
    devices = {}
    for device_id, content in listed.items():
        unsigned = member_in(content, "unsigned")
        keys = _device_keys(user_id, device_id, content, _name_of(unsigned))
        if keys is not None:
            devices[device_id] = keys
    cross_signing = {
        usage: keys
        for section, usage in KEYS_OF_QUERY.items()
        if (keys := _signing_key(user_id, member_in(response.get(section), user_id))) is not None
    }
    return FetchedKeys(user_id, None, devices, cross_signing)


def parse_signing_keys(user_id: UserID, content: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the valid cross-signing keys, by usage, in a device list or m.signing_key_update."""
    return {
        usage: keys
        for name, usage in _OF_DEVICE_LIST.items()
        if (keys := _signing_key(user_id, content.get(name))) is not None
    }


def parse_device_update(user_id: UserID, content: Mapping[str, Any]) -> DeviceUpdate:
    """Return the change in an m.device_list_update. Raises: InvalidParam."""
    device_id, stream_id = content.get("device_id"), content.get("stream_id")
    prev_ids = content.get("prev_id", [])
    if not _is_id(device_id):
        raise InvalidParam(f"device_id must be a string of 1 to {MAX_ID_CHARS} characters")
    if not _is_position(stream_id):
        raise InvalidParam("stream_id must be an integer")
    if not _are_positions(prev_ids):
        raise InvalidParam(f"prev_id must be a list of at most {MAX_PREV_IDS} integers")
    keys = None
    if content.get("deleted") is not True:
        keys = _device_keys(user_id, device_id, content.get("keys"), _name_of(content))
    return DeviceUpdate(user_id, device_id, stream_id, tuple(prev_ids), keys)


def _device_keys(
    user_id: UserID, device_id: str, content: object, display_name: str | None
) -> bytes | None:
    if not isinstance(content, dict) or not _is_id(device_id):
        return None
    named = content.get("user_id", user_id), content.get("device_id", device_id)
    if named != (user_id, device_id):
        return None
    unsigned = {} if display_name is None else {"device_display_name": display_name}
    return encoded_key({**content, "unsigned": unsigned})


def _signing_key(user_id: UserID, content: object) -> bytes | None:
    if not isinstance(content, dict) or content.get("user_id") != user_id:
        return None
    if not isinstance(content.get("keys"), dict):
        return None
    return encoded_key(content)


def encoded_key(content: object) -> bytes | None:
    """Return a key as JSON; None if that is not possible, or too long."""
    try:
        encoded = encode_lenient(content)
    except BadJson:
        return None
    return encoded if len(encoded) <= MAX_IDENTITY_BYTES else None


def _name_of(content: Mapping[str, Any]) -> str | None:
    name = content.get("device_display_name")
    return name[:MAX_ID_CHARS] if isinstance(name, str) else None


def member_in(content: object, name: str) -> dict[str, Any]:
    """Return a member of an object if it is an object itself, else an empty one."""
    value = content.get(name) if isinstance(content, dict) else None
    return value if isinstance(value, dict) else {}


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and "\0" not in value


def _is_position(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_POSITION


def _are_positions(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) <= MAX_PREV_IDS
        and all(map(_is_position, values))
    )


def _too_many_devices(user_id: UserID) -> RemoteFault:
    return RemoteFault(server_of(user_id), f"{user_id} has more than {MAX_DEVICES} devices")


def device_objects(keys: FetchedKeys, device_ids: Sequence[str]) -> dict[str, orjson.Fragment]:
    """Return the devices with these IDs, or all of them if none is named."""
    return {
        device_id: orjson.Fragment(content)
        for device_id, content in keys.devices.items()
        if not device_ids or device_id in device_ids
    }
