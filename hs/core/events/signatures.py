"""Signatures of events: the servers that must have signed an event, and verification.

Spec: server-server API, Validating hashes and signatures on received events.
"""

from collections.abc import Mapping

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.hashes import essential_bytes, redacted_unless_hash_matches
from hs.core.ids import ServerName, UserID, is_user_id, server_in, server_of
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import check_signatures


def required_signers(event: Event) -> frozenset[ServerName]:
    """Return the servers whose signatures an event needs."""
    signers = set()
    if not _is_third_party_invite(event):
        signers.add(server_of(event.sender))
    if not event.rules.event_id_is_hash:
        # Room versions 1 and 2: also the server named in the event ID.
        id_server = server_in(event.event_id)
        if id_server is not None:
            signers.add(id_server)
    if event.rules.restricted_joins and event.type == types.MEMBER:
        # Authorisation rules, step 4.2: the server that authorised a restricted join.
        authoriser = event.content.get("join_authorised_via_users_server")
        if is_user_id(authoriser):
            signers.add(server_of(UserID(str(authoriser))))
    return frozenset(signers)


def check_event_signature(event: Event, server: ServerName, keys: Mapping[str, VerifyKey]) -> None:
    """Verify that a server has signed an event.

    `keys` are the keys of that server that were valid when the event was sent.

    Raises: InvalidSignature.
    """
    check_signatures(event.pdu, server, keys, essential_bytes(event.pdu, event.rules))


def _is_third_party_invite(event: Event) -> bool:
    # An invite that follows a third-party invite is sent by the invited user's server on behalf
    # of the inviter, so the inviter's server has not signed it. The check is on the redacted form
    # if the content hash does not match: otherwise a server could forge an invite that loses
    # `third_party_invite` by redaction and remains as a plain, unsigned invite.
    if event.type != types.MEMBER or "third_party_invite" not in event.content:
        return False
    content = redacted_unless_hash_matches(event).content
    return content.get("membership") == types.INVITE and "third_party_invite" in content
