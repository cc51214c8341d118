"""HTTP clients for tests, with the rules of the internet but for one address of this machine."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from hs.lib.aio import Bridge
from hs.lib.http_client.addresses import AddressRules
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.nursery.wiring.http_clients import address_rules
from hs.settings.sections.outgoing import PRIVATE_NETWORKS

PRIVATE = address_rules(PRIVATE_NETWORKS, ())
# As on the internet, but that 127.0.0.1 is a public address.
ONE_PUBLIC = address_rules(PRIVATE_NETWORKS, ("127.0.0.1/32",))


@asynccontextmanager
async def client(
    bridge: Bridge, rules: AddressRules = ONE_PUBLIC, **more: object
) -> AsyncIterator[BridgedHttpClient]:
    made = BridgedHttpClient(bridge, rules, user_agent="test/1", **more)  # type: ignore[arg-type]  # passed on
    try:
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await made.aclose()


def names(**addresses: Sequence[str]) -> Callable[[str], Awaitable[Sequence[str]]]:
    """A resolver: each look-up of a name gives the next of its addresses, then the last again."""
    left = {name: list(given) for name, given in addresses.items()}

    async def resolve(host: str) -> Sequence[str]:
        given = left[host.split(".")[0]]
        return (given.pop(0) if len(given) > 1 else given[0]).split()

    return resolve
