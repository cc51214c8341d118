"""Third-party invites: verifying that an identity server vouches for the invited user.

Spec: rooms/v11, Authorisation rules, step 4.4.1.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from hs.core.auth.selection import third_party_token
from hs.core.canonical_json import encode_lenient
from hs.core.errors import Forbidden, InvalidSigningKey
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.signing.keys import ALGORITHM, VerifyKey
from hs.core.unpadded_base64 import decode_base64

# An identity server publishes two keys and signs with one; many more would be an attack on this
# server's CPU, as each key is tried on each signature.
_MAX_TRIES = 10


def check_third_party_invite(
    event: Event, target: str, state: Mapping[types.StateKey, Event]
) -> None:
    """Check an invite against the m.room.third_party_invite that it refers to.

    The caller has checked that the target is not banned (step 4.4.1.1).

    Raises: Forbidden.
    """
    # Step 4.4.1.2
    third_party_invite = event.content["third_party_invite"]
    signed = third_party_invite.get("signed") if isinstance(third_party_invite, Mapping) else None
    if not isinstance(signed, Mapping):
        raise Forbidden("third_party_invite must have a signed object")
    # Step 4.4.1.3
    token = third_party_token(event.content)
    if token is None or "mxid" not in signed:
        raise Forbidden("third_party_invite.signed must have mxid and token")
    # Step 4.4.1.4
    if signed["mxid"] != target:
        raise Forbidden("third_party_invite.signed.mxid must be the invited user")
    # Step 4.4.1.5
    invite = state.get((types.THIRD_PARTY_INVITE, token))
    if invite is None:
        raise Forbidden("The room has no m.room.third_party_invite with this token")
    # Step 4.4.1.6
    if invite.sender != event.sender:
        raise Forbidden("The sender of the m.room.third_party_invite is another user")
    # Steps 4.4.1.7 and 4.4.1.8
    unsigned = {key: signed[key] for key in signed if key not in ("signatures", "unsigned")}
    message = encode_lenient(unsigned)
    keys = list(islice(_public_keys(invite.content), _MAX_TRIES))
    for signature in islice(_signatures(signed), _MAX_TRIES):
        if any(key.verifies(message, signature) for key in keys):
            return
    raise Forbidden("third_party_invite.signed has no valid signature by a key of the room")


def keys_that_signed(
    invite_content: Mapping[str, Any], signed: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the keys of an m.room.third_party_invite with which `signed` is signed.

    Each is (public key, URL at which its validity can be checked); keys without a URL are left out.
    """
    unsigned = {key: signed[key] for key in signed if key not in ("signatures", "unsigned")}
    message = encode_lenient(unsigned)
    signatures = list(islice(_signatures(signed), _MAX_TRIES))
    verified: dict[tuple[str, str], None] = {}
    for entry in islice(_entries(invite_content), _MAX_TRIES):
        text, url = entry.get("public_key"), entry.get("key_validity_url")
        if not isinstance(text, str) or not isinstance(url, str):
            continue
        try:
            key = VerifyKey.parse(ALGORITHM, text)
        except InvalidSigningKey:
            continue
        if any(key.verifies(message, signature) for signature in signatures):
            verified[text, url] = None
    return list(verified)


def _public_keys(content: Mapping[str, Any]) -> Iterator[VerifyKey]:
    for entry in _entries(content):
        try:
            yield VerifyKey.parse(ALGORITHM, entry.get("public_key"))
        except InvalidSigningKey:
            continue


def _entries(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that contain a public key.

    These are the content itself, as in old events, and the entries of `public_keys`.
    """
    yield content
    public_keys = content.get("public_keys")
    for entry in public_keys if isinstance(public_keys, list) else ():
        if isinstance(entry, Mapping):
            yield entry


def _signatures(signed: Mapping[str, Any]) -> Iterator[bytes]:
    signatures = signed.get("signatures")
    for entry in signatures.values() if isinstance(signatures, Mapping) else ():
        for key_id, text in entry.items() if isinstance(entry, Mapping) else ():
            if key_id.startswith(f"{ALGORITHM}:") and isinstance(text, str):
                try:
                    yield decode_base64(text)
                except ValueError:
                    continue
