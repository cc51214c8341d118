"""A server in a thread that publishes its key over TLS, and responds to all else as it is told."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import sign_json
from hs.services.federation_client.key_responses import KEYS_URI
from tests.support.servers.certificates import Certificates
from tests.support.servers.json_server import JsonHandler, running_json_server

Respond = Callable[[str, str], tuple[int, Any]]


@contextmanager
def running_lying_server(
    signer: Signer, port: int, certificates: Certificates, respond: Respond, turns: threading.Lock
) -> Iterator[None]:
    """Serve requests on a port; `respond` is called with method and URI, holding `turns`."""
    key = signer.key.verify_key
    keys = {
        "server_name": signer.server_name,
        "valid_until_ts": 2**52,
        "verify_keys": {key.key_id: {"key": key.base64}},
        "old_verify_keys": {},
    }
    signed_keys = sign_json(keys, signer)

    class Handler(JsonHandler):
        def answer(self, body: bytes) -> tuple[int, object]:
            if self.path == KEYS_URI:
                return 200, signed_keys
            with turns:
                return respond(self.command, self.path)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with running_json_server(Handler, port, context):
        yield
