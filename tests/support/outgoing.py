"""HTTP clients for tests, with the default rules on addresses except for one local address."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from hs.lib.aio import Bridge
from hs.lib.http_client.addresses import AddressRules
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.sessions import HttpSessions
from hs.nursery.wiring.http_clients import address_rules
from hs.settings.sections.outgoing import PRIVATE_NETWORKS

PRIVATE = address_rules(PRIVATE_NETWORKS, ())
# The default rules, except that 127.0.0.1 counts as a public address.
ONE_PUBLIC = address_rules(PRIVATE_NETWORKS, ("127.0.0.1/32",))


@asynccontextmanager
async def open_http_client(
    bridge: Bridge, rules: AddressRules = ONE_PUBLIC, **more: object
) -> AsyncIterator[BridgedHttpClient]:
    """Open a client."""
    sessions = HttpSessions(bridge, rules, **more)  # type: ignore[arg-type]  # passed on
    http_client = BridgedHttpClient(sessions, "test/1")
    try:
        yield http_client
    finally:
        with trio.CancelScope(shield=True):
            await sessions.aclose()


def fake_resolver(**addresses: Sequence[str]) -> Callable[[str], Awaitable[Sequence[str]]]:
    """Return a resolver: each look-up of a name returns its next addresses, then the last ones.

    The addresses of one look-up are separated by spaces.
    """
    remaining = {name: list(lookups) for name, lookups in addresses.items()}

    async def resolve(host: str) -> Sequence[str]:
        lookups = remaining[host.split(".")[0]]
        return (lookups.pop(0) if len(lookups) > 1 else lookups[0]).split()

    return resolve
