"""The X-Matrix signatures that authenticate requests to other servers.

Spec: server-server API, Request Authentication.
"""

from typing import Any

from hs.core.canonical_json import JsonObject
from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import sign_json


def authorization_header(
    signer: Signer, destination: str, method: str, uri: str, content: JsonObject | None
) -> str:
    """Return the Authorization header of a request; `uri` is the path with its query string.

    Raises: BadJson, if the content is not canonical JSON.
    """
    signed: dict[str, Any] = {
        "method": method,
        "uri": uri,
        "origin": signer.server_name,
        "destination": destination,
    }
    if content is not None:
        signed["content"] = content
    key_id = signer.key.key_id
    signature = sign_json(signed, signer)["signatures"][signer.server_name][key_id]
    fields = {
        "origin": signer.server_name,
        "destination": destination,
        "key": key_id,
        "sig": signature,
    }
    return "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in fields.items())
