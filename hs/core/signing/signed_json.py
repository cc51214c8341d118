"""Signing JSON objects, and checking that an entity has signed one.

Spec: appendices, Signing JSON.
"""

from collections.abc import Mapping
from typing import Any

from hs.core.canonical_json import JsonObject, canonical_json, encode_lenient
from hs.core.errors import InvalidSignature
from hs.core.signing.keys import ALGORITHM, Signer, VerifyKey
from hs.core.unpadded_base64 import decode_base64

# Nobody has many keys; a peer that lists thousands wants to burn our CPU.
MAX_SIGNATURES = 20


def sign_json(value: Mapping[str, Any], signer: Signer) -> JsonObject:
    """Give a copy of an object with our signature added.

    Raises: BadJson, if the object is not canonical JSON.
    """
    signature = signer.key.sign(canonical_json(_unsigned(value)))
    return {**value, "signatures": with_signature(value.get("signatures"), signer, signature)}


def with_signature(signatures: object, signer: Signer, signature: str) -> JsonObject:
    """Give a copy of a `signatures` object with one signature added."""
    merged = dict(signatures) if isinstance(signatures, Mapping) else {}
    theirs = merged.get(signer.server_name)
    merged[signer.server_name] = {
        **(theirs if isinstance(theirs, Mapping) else {}),
        signer.key.key_id: signature,
    }
    return merged


def key_ids_of(signed: Mapping[str, Any], entity: str) -> list[str]:
    """List the Ed25519 keys with which an entity claims to have signed an object.

    Spec: Checking for a Signature, steps 1 and 2.
    """
    signatures = signed.get("signatures")
    theirs = signatures.get(entity) if isinstance(signatures, Mapping) else None
    if not isinstance(theirs, Mapping):
        return []
    ours = [key_id for key_id in theirs if key_id.startswith(f"{ALGORITHM}:")]
    return ours[:MAX_SIGNATURES]


def verify_json(signed: Mapping[str, Any], entity: str, keys: Mapping[str, VerifyKey]) -> None:
    """Check that an entity has signed an object; `keys` are its known keys, by key ID.

    Raises: InvalidSignature.
    """
    check_signatures(signed, entity, keys, encode_lenient(_unsigned(signed)))


def check_signatures(
    signed: Mapping[str, Any], entity: str, keys: Mapping[str, VerifyKey], message: bytes
) -> None:
    """Check an entity's entry in `signatures` against the bytes it must have signed.

    Signatures by unknown keys are skipped; one by a known key must be there, and all by known
    keys must be good.

    Raises: InvalidSignature.
    """
    # Spec: Checking for a Signature, steps 3, 4 and 7.
    known = [key_id for key_id in key_ids_of(signed, entity) if key_id in keys]
    if not known:
        raise InvalidSignature(f"No signature by a known key of {entity}")
    for key_id in known:
        signature = _decode(signed["signatures"][entity][key_id])
        if not keys[key_id].verifies(message, signature):
            raise InvalidSignature(f"The signature by {key_id} of {entity} is wrong")


def _decode(signature: object) -> bytes:
    try:
        return decode_base64(signature) if isinstance(signature, str) else b""
    except ValueError:
        return b""


def _unsigned(value: Mapping[str, Any]) -> JsonObject:
    return {key: value[key] for key in value if key != "signatures" and key != "unsigned"}
