"""Invites by third-party identifier: proof that the invited user owns the address.

Spec: rooms/v11, Authorization rules, step 4.4.1.
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

# An identity server signs with one key and publishes two; more is an attack on our CPU.
_MAX_TRIES = 10


def check_third_party_invite(
    event: Event, target: str, state: Mapping[types.StateKey, Event]
) -> None:
    """Refuse an invite that does not prove its third-party invite; the ban is checked before.

    Raises: Forbidden.
    """
    # Step 4.4.1.2
    offer = event.content["third_party_invite"]
    signed = offer.get("signed") if isinstance(offer, Mapping) else None
    if not isinstance(signed, Mapping):
        raise Forbidden("The third-party invite is not signed")
    # Step 4.4.1.3
    token = third_party_token(event.content)
    if token is None or "mxid" not in signed:
        raise Forbidden("The third-party invite lacks mxid or token")
    # Step 4.4.1.4
    if signed["mxid"] != target:
        raise Forbidden("The third-party invite is for another user")
    # Step 4.4.1.5
    invite = state.get((types.THIRD_PARTY_INVITE, token))
    if invite is None:
        raise Forbidden("The room has no such third-party invite")
    # Step 4.4.1.6
    if invite.sender != event.sender:
        raise Forbidden("The third-party invite is by another user")
    # Steps 4.4.1.7 and 4.4.1.8
    unsigned = {key: signed[key] for key in signed if key not in ("signatures", "unsigned")}
    message = encode_lenient(unsigned)
    keys = list(islice(_public_keys(invite.content), _MAX_TRIES))
    for signature in islice(_signatures(signed), _MAX_TRIES):
        if any(key.verifies(message, signature) for key in keys):
            return
    raise Forbidden("No signature of the third-party invite is by a key that the room knows")


def keys_that_signed(offer: Mapping[str, Any], signed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the keys of a third-party invite by which `signed` is signed, each with the URL that
    tells whether it is still valid; keys without one are left out.
    """
    unsigned = {key: signed[key] for key in signed if key not in ("signatures", "unsigned")}
    message = encode_lenient(unsigned)
    signatures = list(islice(_signatures(signed), _MAX_TRIES))
    found: dict[tuple[str, str], None] = {}
    for entry in islice(_entries(offer), _MAX_TRIES):
        text, url = entry.get("public_key"), entry.get("key_validity_url")
        if not isinstance(text, str) or not isinstance(url, str):
            continue
        try:
            key = VerifyKey.parse(ALGORITHM, text)
        except InvalidSigningKey:
            continue
        if any(key.verifies(message, signature) for signature in signatures):
            found[text, url] = None
    return list(found)


def _public_keys(content: Mapping[str, Any]) -> Iterator[VerifyKey]:
    for entry in _entries(content):
        try:
            yield VerifyKey.parse(ALGORITHM, entry.get("public_key"))
        except InvalidSigningKey:
            continue


def _entries(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give what holds a key: the content itself, as before there were lists, and the list."""
    yield content
    several = content.get("public_keys")
    for one in several if isinstance(several, list) else ():
        if isinstance(one, Mapping):
            yield one


def _signatures(signed: Mapping[str, Any]) -> Iterator[bytes]:
    signatures = signed.get("signatures")
    for entry in signatures.values() if isinstance(signatures, Mapping) else ():
        for key_id, text in entry.items() if isinstance(entry, Mapping) else ():
            if key_id.startswith(f"{ALGORITHM}:") and isinstance(text, str):
                try:
                    yield decode_base64(text)
                except ValueError:
                    continue
