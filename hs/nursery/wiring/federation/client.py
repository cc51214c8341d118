"""Requests to other servers, and the keys by which servers know each other."""

import attrs

from hs.apis.federation.keys import ServerKeysApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.own_keys import OwnKeys
from hs.services.federation_client.peer_transport import PeerTransport
from hs.services.federation_client.request_authentication import RequestAuthenticator
from hs.services.federation_client.server_keys import ServerKeys


@attrs.frozen(eq=False, kw_only=True)
class FederationClientServices:
    """The client, the keys of all servers, and the check of requests that other servers sign."""

    client: FederationClient
    keys: ServerKeys
    origins: RequestAuthenticator
    part: Part


def wire_federation_client(base: ProcessBase, transport: PeerTransport) -> FederationClientServices:
    """Build the client. It sends nothing yet."""
    keys = ServerKeys(base.signer, transport, base.clock)
    timeout_s = base.settings.peer_requests.client_timeout / 1000
    own_keys = OwnKeys(base.signer, base.settings.signing_keys, base.clock)
    return FederationClientServices(
        client=FederationClient(base.signer, transport, timeout_s),
        keys=keys,
        origins=RequestAuthenticator(base.signer.server_name, keys, base.clock),
        part=Part(endpoints=[ServerKeysApi(own_keys)]),
    )
