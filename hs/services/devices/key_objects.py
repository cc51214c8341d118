"""Parsing, validation and canonical JSON of uploaded keys.

Spec: client-server API, End-to-End Encryption, Key algorithms; Cross-signing.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import attrs

from hs.core.canonical_json import JsonObject, canonical_json, check_canonical, encode_checked
from hs.core.errors import BadJson, InvalidParam, InvalidSignature, InvalidSigningKey, TooLarge
from hs.core.ids import UserID
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import verify_json

MASTER: Final = "master"
SELF_SIGNING: Final = "self_signing"
USER_SIGNING: Final = "user_signing"

MAX_KEY_NAME_CHARS: Final = 255
MAX_KEYS: Final = 1000
MAX_IDENTITY_BYTES: Final = 65_536  # of the identity keys of a device, or a cross-signing key
_ED25519: Final = "ed25519:"
_DEVICE_FIELDS: Final = ("algorithms", "keys", "signatures")


class OneTimeKey(NamedTuple):
    """An uploaded key; `shown` is the canonical JSON object `{name: key}`."""

    algorithm: str
    key_id: str
    shown: bytes

    @property
    def name(self) -> str:
        """Name of the key in requests, `algorithm:key_id`."""
        return f"{self.algorithm}:{self.key_id}"

    @property
    def content(self) -> bytes:
        """Canonical JSON of the key without its name."""
        return self.shown[len(encode_checked(self.name)) + 2 : -1]


@attrs.frozen
class CrossSigningKey:
    """An uploaded cross-signing key."""

    usage: str
    public_key: str
    content: JsonObject

    @property
    def key_id(self) -> str:
        """ID of the key, with its algorithm."""
        return _ED25519 + self.public_key

    @property
    def canonical(self) -> bytes:
        """Canonical JSON of the key object."""
        return canonical_json(self.content)


def parse_device_keys(value: JsonObject, user_id: UserID, device_id: str) -> bytes:
    """Check a device's identity keys; return them as canonical JSON without `unsigned`.

    Raises: InvalidParam, BadJson, TooLarge.
    """
    if value.get("user_id") != user_id or value.get("device_id") != device_id:
        raise InvalidParam("user_id and device_id in device_keys must be those of the requester")
    missing = [name for name in _DEVICE_FIELDS if name not in value]
    if missing:
        raise BadJson(f"device_keys lacks {', '.join(missing)}")
    _check_types(value)
    algorithms = value["algorithms"]
    if not isinstance(algorithms, list) or not all(isinstance(name, str) for name in algorithms):
        raise BadJson("'algorithms' must be a list of strings")
    encoded = canonical_json({name: value[name] for name in value if name != "unsigned"})
    _check_size(encoded)
    return encoded


def parse_one_time_keys(keys: JsonObject) -> list[OneTimeKey]:
    """Parse one-time keys, given by their names `algorithm:key_id`.

    Raises: InvalidParam, BadJson.
    """
    if len(keys) > MAX_KEYS:
        raise InvalidParam(f"At most {MAX_KEYS} keys can be uploaded in one request")
    check_canonical(keys)
    return [_one_time_key(name, content) for name, content in keys.items()]


def parse_fallback_keys(keys: JsonObject) -> list[OneTimeKey]:
    """Parse fallback keys, at most one of each algorithm.

    Raises: InvalidParam, BadJson.
    """
    fallback_keys = parse_one_time_keys(keys)
    if len({key.algorithm for key in fallback_keys}) != len(fallback_keys):
        raise InvalidParam("At most one fallback key of each algorithm can be uploaded")
    return fallback_keys


def parse_cross_signing_key(value: JsonObject, usage: str, user_id: UserID) -> CrossSigningKey:
    """Parse a cross-signing key; signatures of other users are removed.

    Raises: InvalidParam, BadJson, TooLarge.
    """
    if value.get("user_id") != user_id:
        raise InvalidParam(f"user_id of the {usage} key must be your user ID")
    usages = value.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise InvalidParam(f"'usage' of the key must contain {usage}")
    public_key = public_key_of(value)
    if public_key is None:
        raise InvalidParam(f"'keys' of the {usage} key must contain exactly one Ed25519 key")
    _check_types(value)
    content = {name: value[name] for name in value if name not in ("unsigned", "signatures")}
    own_signatures = value.get("signatures", {}).get(user_id)
    if own_signatures is not None:
        content["signatures"] = {user_id: own_signatures}
    key = CrossSigningKey(usage, public_key, content)
    _check_size(key.canonical)
    return key


def public_key_of(content: Mapping[str, Any]) -> str | None:
    """Return the public key in a cross-signing key object; None if it is invalid."""
    keys = content.get("keys")
    if not isinstance(keys, Mapping) or len(keys) != 1:
        return None
    name, public_key = next(iter(keys.items()))
    if not isinstance(public_key, str) or name != _ED25519 + public_key:
        return None
    try:
        VerifyKey.parse(name, public_key)
    except InvalidSigningKey:
        return None
    return public_key


def check_signed(content: Mapping[str, Any], signer: UserID, keys: Mapping[str, str]) -> None:
    """Check that a user signed an object with at least one of `keys`.

    All signatures by these keys must be valid. `keys` are public keys by key ID.
    Raises: InvalidSignature.
    """
    parsed: dict[str, VerifyKey] = {}
    for key_id, text in keys.items():
        try:
            parsed[key_id] = VerifyKey.parse(key_id, text)
        except InvalidSigningKey:
            continue
    try:
        verify_json(content, signer, parsed)
    except BadJson as error:
        raise InvalidSignature("The signed object cannot be encoded as canonical JSON") from error


def equal_except_signatures(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Return whether two objects are equal apart from `signatures` and `unsigned`."""
    return _signed_part(left) == _signed_part(right)


def _signed_part(content: Mapping[str, Any]) -> JsonObject:
    return {name: content[name] for name in content if name not in ("signatures", "unsigned")}


def _one_time_key(name: str, content: object) -> OneTimeKey:
    algorithm, colon, key_id = name.partition(":")
    if not colon or not algorithm or not key_id or len(name) > MAX_KEY_NAME_CHARS:
        raise InvalidParam("Key names must have the form algorithm:key_id")
    if "\0" in name:
        raise InvalidParam("Key names must not contain NUL characters")
    if type(content) is not dict and type(content) is not str:
        raise BadJson("A key must be a string or an object")
    return OneTimeKey(algorithm, key_id, encode_checked({name: content}))


def _check_size(encoded: bytes) -> None:
    if len(encoded) > MAX_IDENTITY_BYTES:
        raise TooLarge(f"A key must not be larger than {MAX_IDENTITY_BYTES} bytes")


def _check_types(value: JsonObject) -> None:
    # Rendering with additional signatures relies on these types.
    if not _is_object_of_strings(value.get("keys", {})):
        raise BadJson("'keys' must be an object of strings")
    signatures = value.get("signatures", {})
    if not isinstance(signatures, dict) or not all(map(_is_object_of_strings, signatures.values())):
        raise BadJson("'signatures' must be an object of objects of strings")


def _is_object_of_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(member, str) for member in value.values())
