"""Requests to other servers, and the keys by which servers know each other."""

import attrs

from hs.apis.federation.keys import ServerKeysApi
from hs.core.federation_streams import DESTINATIONS
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.gated_transport import GatedTransport
from hs.services.federation_client.own_keys import OwnKeys
from hs.services.federation_client.peer_transport import PeerTransport
from hs.services.federation_client.request_authentication import RequestAuthenticator
from hs.services.federation_client.server_backoff import ServerBackoff
from hs.services.federation_client.server_keys import ServerKeys


@attrs.frozen(eq=False, kw_only=True)
class FederationClientServices:
    """The client, the keys of all servers, and the check of requests that other servers sign.

    `backoff` knows which servers do not respond.
    """

    client: FederationClient
    backoff: ServerBackoff
    keys: ServerKeys
    origins: RequestAuthenticator
    part: Part


def wire_federation_client(base: ProcessBase, network: PeerTransport) -> FederationClientServices:
    """Build the client. It sends nothing yet."""
    peer_requests = base.settings.peer_requests
    names = base.settings.federation.federation_domain_whitelist
    permitted = None if names is None else frozenset((*names, base.signer.server_name))
    backoff = ServerBackoff(
        base.database, base.feed, base.shared(DESTINATIONS), base.clock, peer_requests
    )
    transport = GatedTransport(network, backoff, permitted)
    keys = ServerKeys(base.signer, transport, base.clock)
    timeout_s = peer_requests.client_timeout / 1000
    own_keys = OwnKeys(base.signer, base.settings.signing_keys, base.clock)
    return FederationClientServices(
        client=FederationClient(base.signer, transport, timeout_s),
        keys=keys,
        origins=RequestAuthenticator(base.signer.server_name, keys, base.clock, backoff, permitted),
        backoff=backoff,
        part=Part(endpoints=[ServerKeysApi(own_keys)]),
    )
