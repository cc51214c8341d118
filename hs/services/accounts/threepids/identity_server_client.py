"""Asking an identity server: JSON both ways, its errors put into ours."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, MatrixError, RemoteFault
from hs.lib.http_client import HttpAnswer, HttpClient, HttpFault

ANSWER_S = 20.0
ANSWER_BYTES = 256 * 1024


class NoMatrixError(Exception):
    """The server answered with an error that it says nothing about; gives the status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@attrs.frozen
class IdentityHttp:
    """Requests to identity servers; `base` is such as `https://id.example.org`."""

    _http: HttpClient

    async def get(
        self, base: str, path: str, query: Mapping[str, str], token: str | None = None
    ) -> JsonObject:
        """Ask with GET. Raises: MatrixError, NoMatrixError, RemoteFault."""
        return await self._ask("GET", base, f"{path}?{urlencode(query)}", None, bearer(token))

    async def post(
        self, base: str, path: str, content: Mapping[str, Any], authorization: str | None
    ) -> JsonObject:
        """Ask with POST. Raises: MatrixError, NoMatrixError, RemoteFault."""
        return await self._ask("POST", base, path, orjson.dumps(dict(content)), authorization)

    async def _ask(
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
            raise RemoteFault(base, f"The identity server cannot be asked: {fault}") from fault
        return _read(base, answer)


def bearer(token: str | None) -> str | None:
    """Give the Authorization header of a token."""
    return None if token is None else f"Bearer {token}"


def _read(base: str, answer: HttpAnswer) -> JsonObject:
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        content = None
    if answer.status == 200:
        if isinstance(content, dict):
            return content
        raise RemoteFault(base, "The identity server's answer is no JSON object", retry=False)
    if answer.status >= 500 and answer.status != 501:
        raise RemoteFault(base, f"The identity server fails with status {answer.status}")
    errcode = content.get("errcode") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(errcode, str):
        raise NoMatrixError(answer.status)
    message = str(content.get("error", ""))
    if answer.status == 401:
        # Passed on as it is, clients would take it for the end of their session with us.
        raise Forbidden(f"The identity server refuses the access token: {message}")
    raise MatrixError(errcode, max(answer.status, 400), message)
