"""The objects that clients upload as keys: read, checked, and put into canonical JSON.

Spec: client-server API, End-to-End Encryption, Key algorithms; Cross-signing.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import attrs

from hs.core.canonical_json import JsonObject, canonical_json, check_canonical, encode_checked
from hs.core.errors import BadJson, InvalidParam, InvalidSignature, InvalidSigningKey
from hs.core.ids import UserID
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import verify_json

MASTER: Final = "master"
SELF_SIGNING: Final = "self_signing"
USER_SIGNING: Final = "user_signing"

MAX_KEY_NAME_CHARS: Final = 255
MAX_KEYS: Final = 1000
_ED25519: Final = "ed25519:"
_DEVICE_FIELDS: Final = ("algorithms", "keys", "signatures")


class OneTimeKey(NamedTuple):
    """One key of an upload; `shown` is an object of it by its name, canonical JSON."""

    algorithm: str
    key_id: str
    shown: bytes

    @property
    def name(self) -> str:
        """Give its algorithm and ID, as it is called in requests."""
        return f"{self.algorithm}:{self.key_id}"

    @property
    def content(self) -> bytes:
        """Give the key alone, canonical JSON."""
        return self.shown[len(encode_checked(self.name)) + 2 : -1]


@attrs.frozen
class CrossSigningKey:
    """One cross-signing key of an upload."""

    usage: str
    public_key: str
    content: JsonObject

    @property
    def key_id(self) -> str:
        """Give the key's name, with its algorithm."""
        return _ED25519 + self.public_key

    @property
    def canonical(self) -> bytes:
        """Give the content as it is stored."""
        return canonical_json(self.content)


def read_device_keys(value: JsonObject, user_id: UserID, device_id: str) -> bytes:
    """Check what a device says of itself; give it as canonical JSON without `unsigned`.

    Raises: InvalidParam, BadJson.
    """
    if value.get("user_id") != user_id or value.get("device_id") != device_id:
        raise InvalidParam("The keys are not of the device that uploads them")
    missing = [name for name in _DEVICE_FIELDS if name not in value]
    if missing:
        raise BadJson(f"The keys of a device lack {', '.join(missing)}")
    _check_kinds(value)
    algorithms = value["algorithms"]
    if not isinstance(algorithms, list) or not all(isinstance(one, str) for one in algorithms):
        raise BadJson("'algorithms' must be a list of strings")
    return canonical_json({name: value[name] for name in value if name != "unsigned"})


def read_one_time_keys(keys: JsonObject) -> list[OneTimeKey]:
    """Read keys by their names, `algorithm:key_id`.

    Raises: InvalidParam, BadJson.
    """
    if len(keys) > MAX_KEYS:
        raise InvalidParam(f"At most {MAX_KEYS} keys can be uploaded at once")
    check_canonical(keys)
    return [_one_time_key(name, content) for name, content in keys.items()]


def read_fallback_keys(keys: JsonObject) -> list[OneTimeKey]:
    """Read fallback keys: one of each algorithm at most.

    Raises: InvalidParam, BadJson.
    """
    read = read_one_time_keys(keys)
    if len({key.algorithm for key in read}) != len(read):
        raise InvalidParam("There can be only one fallback key of each algorithm")
    return read


def read_cross_signing_key(value: JsonObject, usage: str, user_id: UserID) -> CrossSigningKey:
    """Check one cross-signing key; other users' signatures are left out.

    Raises: InvalidParam, BadJson.
    """
    if value.get("user_id") != user_id:
        raise InvalidParam(f"The {usage} key must have your user ID")
    usages = value.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise InvalidParam(f"The key must have the usage {usage}")
    public_key = public_key_of(value)
    if public_key is None:
        raise InvalidParam(f"The {usage} key must have exactly one Ed25519 key, named after itself")
    _check_kinds(value)
    content = {name: value[name] for name in value if name not in ("unsigned", "signatures")}
    own = value.get("signatures", {}).get(user_id)
    if own is not None:
        content["signatures"] = {user_id: own}
    return CrossSigningKey(usage, public_key, content)


def public_key_of(content: Mapping[str, Any]) -> str | None:
    """Give the public key of a cross-signing key; None: it is none."""
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
    """Check that a user signed an object by at least one of these keys, and by all it names.

    `keys` are public keys by key ID. Raises: InvalidSignature.
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
        raise InvalidSignature("What was signed is no canonical JSON") from error


def same_but_signatures(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two objects sign the same."""
    return _bare(one) == _bare(other)


def _bare(content: Mapping[str, Any]) -> JsonObject:
    return {name: content[name] for name in content if name not in ("signatures", "unsigned")}


def _one_time_key(name: str, content: object) -> OneTimeKey:
    algorithm, colon, key_id = name.partition(":")
    if not colon or not algorithm or not key_id or len(name) > MAX_KEY_NAME_CHARS:
        raise InvalidParam("A key is named by its algorithm and its ID, with a colon between")
    if "\0" in name:
        raise InvalidParam("A key's name cannot hold NUL")
    if type(content) is not dict and type(content) is not str:
        raise BadJson("A key is a string or an object")
    return OneTimeKey(algorithm, key_id, encode_checked({name: content}))


def _check_kinds(value: JsonObject) -> None:
    # Whoever shows them later, with other signatures added, relies on it.
    if not _are_texts(value.get("keys", {})):
        raise BadJson("'keys' must be an object of strings")
    signatures = value.get("signatures", {})
    if not isinstance(signatures, dict) or not all(map(_are_texts, signatures.values())):
        raise BadJson("'signatures' must be an object of objects of strings")


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
