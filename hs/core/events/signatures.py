"""Who must have signed an event, and whether they have.

Spec: server-server API, Validating hashes and signatures on received events.
"""

from collections.abc import Mapping

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.hashes import essential_bytes, trusted_part
from hs.core.ids import ServerName, UserID, is_user_id, server_in, server_of
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import check_signatures


def required_signers(event: Event) -> frozenset[ServerName]:
    """List the servers whose signatures an event needs."""
    signers = set()
    if not _is_third_party_invite(event):
        signers.add(server_of(event.sender))
    if not event.rules.event_id_is_hash:
        # Room versions 1 and 2: the server that the event ID names, if it is another.
        named = server_in(event.event_id)
        if named is not None:
            signers.add(named)
    if event.rules.restricted_joins and event.type == types.MEMBER:
        # Authorization rules, m.room.member, step 2: whoever let the sender in has signed.
        authoriser = event.content.get("join_authorised_via_users_server")
        if is_user_id(authoriser):
            signers.add(server_of(UserID(str(authoriser))))
    return frozenset(signers)


def check_event_signature(event: Event, server: ServerName, keys: Mapping[str, VerifyKey]) -> None:
    """Check that a server has signed an event; `keys` are its keys that were valid then.

    Raises: InvalidSignature.
    """
    check_signatures(event.pdu, server, keys, essential_bytes(event.pdu, event.rules))


def _is_third_party_invite(event: Event) -> bool:
    # The server of the invited user sends it in the name of the inviter, who need not be there.
    # Only what survives counts: a wrong content hash makes the event lose the fields that are
    # not essential, and nobody may get an unsigned plain invite in by that way.
    if event.type != types.MEMBER or "third_party_invite" not in event.content:
        return False
    content = trusted_part(event).content
    return content.get("membership") == types.INVITE and "third_party_invite" in content
