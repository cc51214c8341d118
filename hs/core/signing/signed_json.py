"""Signed JSON objects: adding signatures and verifying them.

Spec: appendices, Signing JSON.
"""

from collections.abc import Mapping
from typing import Any

from hs.core.canonical_json import JsonObject, canonical_json, encode_lenient
from hs.core.errors import BadJson, InvalidSignature
from hs.core.signing.keys import ALGORITHM, Signer, VerifyKey
from hs.core.unpadded_base64 import decode_base64

# Entities have few keys; thousands of signatures would be an attack on this server's CPU.
MAX_SIGNATURES = 20


def sign_json(value: Mapping[str, Any], signer: Signer) -> JsonObject:
    """Return a copy of an object with this server's signature added.

    Raises: BadJson, if the object is not canonical JSON.
    """
    signature = signer.key.sign(canonical_json(_unsigned(value)))
    return {**value, "signatures": with_signature(value.get("signatures"), signer, signature)}


def with_signature(signatures: object, signer: Signer, signature: str) -> JsonObject:
    """Return a copy of a `signatures` object with one signature added."""
    merged = dict(signatures) if isinstance(signatures, Mapping) else {}
    server_signatures = merged.get(signer.server_name)
    merged[signer.server_name] = {
        **(server_signatures if isinstance(server_signatures, Mapping) else {}),
        signer.key.key_id: signature,
    }
    return merged


def key_ids_of(signed: Mapping[str, Any], entity: str) -> list[str]:
    """Return the IDs of the Ed25519 keys with which an entity claims to have signed an object.

    At most MAX_SIGNATURES are returned. Spec: Checking for a Signature, steps 1 and 2.
    """
    signatures = signed.get("signatures")
    entity_signatures = signatures.get(entity) if isinstance(signatures, Mapping) else None
    if not isinstance(entity_signatures, Mapping):
        return []
    key_ids = [key_id for key_id in entity_signatures if key_id.startswith(f"{ALGORITHM}:")]
    return key_ids[:MAX_SIGNATURES]


def verify_json(signed: Mapping[str, Any], entity: str, keys: Mapping[str, VerifyKey]) -> None:
    """Verify that an entity has signed an object; `keys` are its known keys by key ID.

    Raises: InvalidSignature.
    """
    try:
        message = encode_lenient(_unsigned(signed))
    except BadJson as fault:
        raise InvalidSignature(f"What {entity} has signed cannot be encoded: {fault}") from None
    check_signatures(signed, entity, keys, message)


def check_signatures(
    signed: Mapping[str, Any], entity: str, keys: Mapping[str, VerifyKey], message: bytes
) -> None:
    """Verify an entity's entry in `signatures` against the bytes that it must have signed.

    Signatures with unknown keys are ignored. At least one must be with a known key, and all those
    with known keys must be valid.

    Raises: InvalidSignature.
    """
    # Spec: Checking for a Signature, steps 3, 4 and 7.
    known = [key_id for key_id in key_ids_of(signed, entity) if key_id in keys]
    if not known:
        raise InvalidSignature(f"There is no signature by a known key of {entity}")
    for key_id in known:
        signature = _decode(signed["signatures"][entity][key_id])
        if not keys[key_id].verifies(message, signature):
            raise InvalidSignature(f"The signature by {key_id} of {entity} is invalid")


def _decode(signature: object) -> bytes:
    try:
        return decode_base64(signature) if isinstance(signature, str) else b""
    except ValueError:
        return b""


def _unsigned(value: Mapping[str, Any]) -> JsonObject:
    return {key: value[key] for key in value if key != "signatures" and key != "unsigned"}
