"""TLS for connections as a client: the default context, and the handshake on a trio stream."""

import ssl
from functools import cache

import trio


@cache
def default_tls() -> ssl.SSLContext:
    """Return the context that trusts the certificate authorities of this machine.

    All connections share it, as loading the authorities takes 50 ms; nobody may change it.
    """
    return ssl.create_default_context()


async def start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, host: str
) -> trio.SSLStream[trio.abc.Stream]:
    """Return the stream encrypted, after the handshake; if that fails, the stream is closed.

    Raises: trio.BrokenResourceError.
    """
    encrypted = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await encrypted.do_handshake()
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(encrypted)
        raise
    return encrypted
