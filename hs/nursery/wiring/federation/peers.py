"""The transport of requests to other servers over the network."""

import os
from typing import Final

import attrs

from hs.lib.aio import Bridge
from hs.lib.clock import Clock
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.directed import DirectedHttpClient
from hs.lib.http_client.sessions import HttpSessions
from hs.lib.http_client.targets import proxies_from_environment
from hs.lib.srv_records import SystemSrvLookup
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.http_clients import address_rules, chosen_proxies, user_agent
from hs.services.federation_client.delegations import CachedDelegations
from hs.services.federation_client.network_transport import NetworkTransport
from hs.services.federation_client.peer_tls import peer_tls
from hs.services.federation_client.peer_transport import PeerTransport
from hs.services.federation_client.proxied_transport import (
    OwnPeerRequests,
    PeerRequests,
    ProxiedTransport,
)
from hs.settings.settings import Settings

CONNECTIONS: Final = 1000
# Downloads of media and requests of clients may be slow, and must leave some to other requests.
CONNECTIONS_PER_SERVER: Final = 100
WELL_KNOWN_CONNECTIONS: Final = 300
# Names without a working name server occupy a thread each for up to half a minute.
RESOLVER_THREADS: Final = 100


@attrs.frozen(eq=False, kw_only=True)
class PeerNetwork:
    """The transport, and its HTTP clients, which close their connections when the process ends."""

    transport: PeerTransport
    part: Part = attrs.Factory(Part)


@attrs.frozen(eq=False, kw_only=True)
class RealPeerNetwork(PeerNetwork):
    """The transport over the network, with its cache of delegations."""

    delegations: CachedDelegations


def wire_peer_network(base: ProcessBase) -> PeerNetwork:
    """Build the transport of a process."""
    return build_peer_network(base.settings, base.bridge, base.clock)


def restrict_peer_network(base: ProcessBase, peers: PeerNetwork) -> PeerNetwork:
    """Let only the processes of `outbound_federation_restricted_to` send requests themselves."""
    names = base.settings.workers.peer_processes
    if not names:
        return peers
    if base.plan.instance not in names:
        proxies = {name: base.owned_by(name, PeerRequests, _no_requests) for name in names}
        return PeerNetwork(transport=ProxiedTransport(proxies))
    own = OwnPeerRequests(peers.transport)
    base.owned_by(base.plan.instance, PeerRequests, lambda: own)
    runner = ("requests of other processes to other servers", own.run)
    part = attrs.evolve(peers.part, runners=[*peers.part.runners, runner])
    return PeerNetwork(transport=peers.transport, part=part)


def _no_requests() -> PeerRequests:
    raise AssertionError("another process has them")


def build_peer_network(settings: Settings, bridge: Bridge, clock: Clock) -> RealPeerNetwork:
    """Build the transport; it opens no connection yet. Raises: OSError (a CA file)."""
    outgoing = settings.outgoing
    rules = address_rules(outgoing.ip_range_blacklist, outgoing.ip_range_whitelist)
    proxies = chosen_proxies(outgoing, proxies_from_environment(os.environ))
    agent, tls = user_agent(outgoing), peer_tls(settings.federation)
    requests = DirectedHttpClient(
        rules,
        proxies,
        connections=CONNECTIONS,
        connections_per_target=CONNECTIONS_PER_SERVER,
        resolver_threads=RESOLVER_THREADS,
    )
    verifying, trusting = (
        BridgedHttpClient(
            HttpSessions(
                bridge,
                rules,
                proxies=proxies,
                tls=context,
                connections=WELL_KNOWN_CONNECTIONS,
                resolver_threads=RESOLVER_THREADS,
            ),
            agent,
        )
        for context in (tls.verifying, tls.trusting)
    )
    delegations = CachedDelegations(
        lambda host: verifying if tls.is_verified(host) else trusting,
        SystemSrvLookup(),
        clock,
    )
    transport = NetworkTransport(delegations, requests, tls, agent, settings.peer_requests)
    runners = [
        ("connections to other servers", requests.run),
        ("HTTP client for well-known files", verifying.sessions.run),
        ("HTTP client for well-known files of unverified servers", trusting.sessions.run),
    ]
    return RealPeerNetwork(transport=transport, delegations=delegations, part=Part(runners=runners))
