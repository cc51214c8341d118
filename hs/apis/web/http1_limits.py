"""Limits on the connections of clients: sizes, counts and timeouts."""

import attrs


@attrs.frozen
class HttpLimits:
    """Sizes in bytes, times in seconds.

    `body_bytes_per_s` and `write_bytes_per_s` are the slowest average rates at which a client
    may send a request body and read a response, after the grace time that goes with them.
    `drain_head_s` is how long a client that connected just before the drain may take to send its
    request. At most `connections_per_source` connections of one address or IPv6 network are open,
    except from `unlimited_networks`. `buffered_bytes` limits what all clients make the process keep
    (buffers.py).
    """

    head_bytes: int = 65536
    target_bytes: int = 32768
    headers: int = 100
    pipelined_requests: int = 16
    unread_body_bytes: int = 65536
    connections: int = 20_000
    connections_per_source: int = 1000
    unlimited_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    buffered_bytes: int = 256 * 1024 * 1024
    handshake_s: float = 15.0
    head_s: float = 15.0
    keep_alive_s: float = 75.0
    body_grace_s: float = 30.0
    body_bytes_per_s: int = 1024
    write_grace_s: float = 30.0
    write_bytes_per_s: int = 1024
    linger_s: float = 2.0
    drain_grace_s: float = 20.0
    drain_head_s: float = 1.0
    reap_interval_s: float = 1.0
