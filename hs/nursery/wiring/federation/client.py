"""Requests to other servers, and the keys by which servers know each other."""

import logging
from functools import partial

import attrs

from hs.apis.client.server.federation_whitelist import FederationWhitelistApi
from hs.apis.federation.keys import ServerKeysApi
from hs.core.signing.keys import Signer
from hs.core.streams import DESTINATIONS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.process_metrics import watch_backoff
from hs.repl.signing_key import keys_in_file
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.gated_transport import GatedTransport
from hs.services.federation_client.key_notary import KeyNotary
from hs.services.federation_client.own_keys import OwnKeys
from hs.services.federation_client.peer_transport import PeerTransport
from hs.services.federation_client.request_authentication import RequestAuthenticator
from hs.services.federation_client.server_backoff import ServerBackoff
from hs.services.federation_client.server_keys import REFRESH_PERIOD_S, ServerKeys
from hs.settings.sections.federation import FederationSettings, KeyExchangeSettings

log = logging.getLogger(__name__)


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
    federation = base.settings.federation
    names = federation.federation_domain_whitelist
    permitted = None if names is None else frozenset((*names, base.signer.server_name))
    backoff = ServerBackoff(
        base.database, base.feed, base.shared(DESTINATIONS), base.clock, peer_requests
    )
    transport = GatedTransport(network, backoff, permitted)
    exchange = base.settings.key_exchange
    _log_notaries(exchange)
    own_keys = OwnKeys(
        base.signer, base.settings.signing_keys, base.clock, exchange.key_refresh_interval
    )
    keys = ServerKeys(own_keys, base.database, transport, base.clock, exchange.trusted_key_servers)
    notary = KeyNotary(own_keys, keys, notary_signers(base), base.database, base.clock)
    timeout_s = peer_requests.client_timeout / 1000
    return FederationClientServices(
        client=FederationClient(base.signer, transport, timeout_s),
        keys=keys,
        origins=RequestAuthenticator(base.signer.server_name, keys, base.clock, backoff, permitted),
        backoff=backoff,
        part=Part(
            endpoints=[ServerKeysApi(own_keys, notary), *_whitelist_endpoint(federation)],
            metrics=[
                partial(
                    watch_backoff, backoff=backoff, servers=federation.federation_metrics_domains
                )
            ],
            duties=[
                Duty(
                    "refreshing server keys",
                    keys.refresh,
                    waiting=keys.refreshes_due,
                    period_s=REFRESH_PERIOD_S,
                    at_start=False,
                )
            ],
        ),
    )


def _whitelist_endpoint(settings: FederationSettings) -> list[object]:
    if not settings.federation_whitelist_endpoint_enabled:
        return []
    return [FederationWhitelistApi(settings.federation_domain_whitelist)]


def notary_signers(base: ProcessBase) -> list[Signer]:
    """Return what signs the keys of other servers. Raises: SettingsError."""
    name, path = base.signer.server_name, base.settings.key_exchange.key_server_signing_keys_path
    if path is None:
        return [base.signer]
    return [Signer(name, key) for key in keys_in_file(path, "key_server_signing_keys_path")]


def _log_notaries(settings: KeyExchangeSettings) -> None:
    names = [str(server.server_name) for server in settings.trusted_key_servers]
    if names == ["matrix.org"] and not settings.suppress_key_server_warning:
        log.info("matrix.org is asked for the keys of servers that cannot be reached")
