"""The X-Matrix signatures that authenticate requests between servers.

Spec: server-server API, Request Authentication.
"""

import re
from collections.abc import Iterable
from typing import Final

import attrs

from hs.core.canonical_json import encode_checked, encode_deep, parse_json
from hs.core.errors import Unauthorized
from hs.core.ids import ServerName, parse_server_name
from hs.core.signing.keys import Signer

SCHEME: Final = "x-matrix"
MAX_HEADERS: Final = 5
"""More Authorization headers than a server has keys would only cost signature checks."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z:/=-]+"  # with characters that older servers do not quote
_PARAMETER = re.compile(rf'[ \t]*([A-Za-z_]+)=(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")


@attrs.frozen
class SignedRequest:
    """The parts of a request that another server signs; `authorization` has the signatures.

    `uri` is the path with its query string, `body` is JSON or empty, both as they were sent.
    """

    method: str
    uri: str
    authorization: tuple[str, ...]
    body: bytes


@attrs.frozen
class RequestSignature:
    """The parameters of one Authorization header; older servers do not send a `destination`."""

    origin: ServerName
    destination: str | None
    key_id: str
    signature: str


def authorization_header(
    signer: Signer, destination: str, method: str, uri: str, body: bytes | None
) -> str:
    """Return the Authorization header of a request.

    `uri` is the path with its query string, `body` is canonical JSON.
    """
    origin, key = signer.server_name, signer.key
    signature = key.sign(signed_bytes(method, uri, origin, destination, body))
    return (
        f'X-Matrix origin="{origin}",destination="{destination}",'
        f'key="{key.key_id}",sig="{signature}"'
    )


def signed_bytes(method: str, uri: str, origin: str, destination: str, body: bytes | None) -> bytes:
    """Return the canonical JSON whose signature authenticates a request.

    `body` is canonical JSON. It comes first in the sorted keys, so it need not be encoded again.
    """
    rest = encode_checked(
        {"method": method, "uri": uri, "origin": origin, "destination": destination}
    )
    return rest if body is None else b'{"content":' + body + b"," + rest[1:]


def content_of(request: SignedRequest) -> bytes | None:
    """Return the canonical JSON of the body of a request; None without a body.

    It may be nested more deeply than this server accepts, as that need not concern all of it.
    Raises: NotJson, BadJson.
    """
    return encode_deep(parse_json(request.body)) if request.body else None


def parse_authorization(headers: Iterable[str]) -> list[RequestSignature]:
    """Parse the Authorization headers of a request; all must be of the same origin.

    Raises: Unauthorized; InvalidParam, if the origin is not a server name.
    """
    signatures = [_parse_header(header) for header in list(headers)[:MAX_HEADERS]]
    if not signatures:
        raise Unauthorized("Missing Authorization headers")
    if len({signature.origin for signature in signatures}) > 1:
        raise Unauthorized("The Authorization headers name different origins")
    return signatures


def _parse_header(header: str) -> RequestSignature:
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != SCHEME:
        raise Unauthorized("The Authorization header must have the scheme X-Matrix")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise Unauthorized("Malformed Authorization header")
        name, quoted, token = match.groups()
        parameters[name.lower()] = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
        position = match.end()
    origin, key_id, signature = (parameters.get(name, "") for name in ("origin", "key", "sig"))
    if not (origin and key_id and signature):
        raise Unauthorized("The Authorization header must have the parameters origin, key and sig")
    return RequestSignature(
        parse_server_name(origin), parameters.get("destination"), key_id, signature
    )
