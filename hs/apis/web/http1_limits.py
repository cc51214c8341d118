"""The bounds a peer meets on one HTTP/1.1 connection: sizes, counts and times."""

import attrs


@attrs.frozen
class HttpBounds:
    """Sizes in bytes, times in seconds; rates are the slowest a peer may be after its grace.

    `last_words_s` is what who has connected just before the end has for its request; `quiet_s`
    is for HTTP/2, where one who waits for an answer says nothing.
    """

    head_bytes: int = 65536
    target_bytes: int = 32768
    headers: int = 100
    pipelined: int = 32
    unread_body_bytes: int = 65536
    connections: int = 20_000
    handshake_s: float = 15.0
    head_s: float = 15.0
    keep_alive_s: float = 75.0
    quiet_s: float = 600.0
    body_grace_s: float = 30.0
    body_bytes_per_s: int = 1024
    write_grace_s: float = 30.0
    write_bytes_per_s: int = 1024
    linger_s: float = 2.0
    drain_grace_s: float = 20.0
    last_words_s: float = 1.0
    tick_s: float = 1.0
