"""The TLS context for connections to servers whose certificates any authority may have signed."""

import ssl
from functools import cache


@cache
def default_tls() -> ssl.SSLContext:
    """Return the context that trusts the certificate authorities of this machine.

    All connections share it, as loading the authorities takes 50 ms; nobody may change it.
    """
    return ssl.create_default_context()
