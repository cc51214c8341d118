"""Settings of clients' connections: trusted reverse proxies, limits. Synapse has none of them."""

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import COUNT, NETWORKS, SIZE, integer, optional

# The largest request has 16 MiB, and one address may take a quarter.
MIN_BUFFERED_BYTES = 64 * 1024**2


@attrs.frozen(kw_only=True)
class ConnectionSettings:
    """The connections of clients to the listeners of a process."""

    trusted_proxies: tuple[str, ...] | None = setting(
        optional(NETWORKS),
        None,
        "Addresses or networks of the reverse proxies whose X-Forwarded-For is believed on "
        "listeners with `x_forwarded: true`. If missing, every peer with a private address is "
        "believed, for the address that it adds itself. Not a key of Synapse.",
    )
    max_connections: int = setting(
        integer(minimum=1),
        20_000,
        "Maximum number of connections from clients to this process; fewer if the system allows "
        "few open files. Not a key of Synapse.",
    )
    max_connections_per_address: int = setting(
        COUNT,
        1000,
        "Maximum number of connections from one IPv4 address or IPv6 /64 network, or of requests "
        "at once if they come through a trusted proxy; 0 for no limit. Not a key of Synapse.",
    )
    unlimited_addresses: tuple[str, ...] = setting(
        NETWORKS,
        ("127.0.0.0/8", "::1/128"),
        "Addresses or networks without limits per address on connections and buffered bytes. Not "
        "a key of Synapse.",
        shown=["127.0.0.0/8", "::1/128"],
    )
    max_buffered_bytes: int = setting(
        SIZE,
        256 * 1024**2,
        "Memory for requests that arrive slowly and responses that are read slowly, of all "
        "clients of this process; a quarter of it for each address. Beyond it, the slowest "
        "connections are closed. Not a key of Synapse.",
        shown="256M",
    )
