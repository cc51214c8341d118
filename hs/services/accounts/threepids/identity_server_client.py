"""The client of identity servers: JSON requests and the translation of their errors."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, MatrixError, RemoteFault
from hs.lib.http_client import HttpClient, HttpFault, HttpResponse

ANSWER_S = 20.0
ANSWER_BYTES = 256 * 1024


class NonMatrixError(Exception):
    """An error response without a Matrix errcode; carries the status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@attrs.frozen
class IdentityServerClient:
    """Requests to identity servers; `base` is a URL such as `https://id.example.org`."""

    _http: HttpClient

    async def get(
        self, base: str, path: str, query: Mapping[str, str], token: str | None = None
    ) -> JsonObject:
        """Send a GET request. Raises: MatrixError, NonMatrixError, RemoteFault."""
        return await self._send("GET", base, f"{path}?{urlencode(query)}", None, bearer(token))

    async def post(
        self, base: str, path: str, content: Mapping[str, Any], authorization: str | None
    ) -> JsonObject:
        """Send a POST request. Raises: MatrixError, NonMatrixError, RemoteFault."""
        return await self._send("POST", base, path, orjson.dumps(dict(content)), authorization)

    async def _send(
        self, method: str, base: str, path: str, body: bytes | None, authorization: str | None
    ) -> JsonObject:
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        if authorization is not None:
            headers["authorization"] = authorization
        try:
            answer = await self._http.send(
                method,
                base.rstrip("/") + path,
                headers=headers,
                body=body,
                timeout_s=ANSWER_S,
                max_bytes=ANSWER_BYTES,
            )
        except HttpFault as fault:
            raise RemoteFault(
                base, f"The request to the identity server failed: {fault}"
            ) from fault
        return _parse_answer(base, answer)


def bearer(token: str | None) -> str | None:
    """Return the Authorization header for an access token."""
    return None if token is None else f"Bearer {token}"


def _parse_answer(base: str, answer: HttpResponse) -> JsonObject:
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        content = None
    if answer.status == 200:
        if isinstance(content, dict):
            return content
        raise RemoteFault(base, "The identity server's response is not a JSON object", retry=False)
    if answer.status >= 500 and answer.status != 501:
        raise RemoteFault(base, f"The identity server failed with status {answer.status}")
    errcode = content.get("errcode") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(errcode, str):
        raise NonMatrixError(answer.status)
    message = str(content.get("error", ""))
    if answer.status == 401:
        # With status 401, clients would assume that their own session has ended.
        raise Forbidden(f"The identity server rejected the access token: {message}")
    raise MatrixError(errcode, max(answer.status, 400), message)
