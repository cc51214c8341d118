"""Validating telephone numbers through the server that `account_threepid_delegates` names.

It speaks the identity service's form of before access tokens, which is what such delegates have.
"""

from typing import Any

import attrs

from hs.core.errors import MatrixError, RemoteFault, ThreepidDenied
from hs.lib.http_client import HttpClient
from hs.services.accounts.threepids.identity_server_client import IdentityHttp, NoMatrixError

V1 = "/_matrix/identity/api/v1"

# What a client is told that failed: where the delegate is does not concern it.
_NAME = "for text messages"


@attrs.frozen
class PhoneSession:
    """A validation under way; `submit_url` is the delegate's own, if it gives one."""

    sid: str
    msisdn: str | None
    submit_url: str | None


@attrs.frozen
class ValidatedPhone:
    """A number that was proved, in its international form."""

    address: str
    validated_at: int


@attrs.frozen(eq=False)
class PhoneDelegate:
    """Sends text messages and checks what came back; without a `base` none are sent."""

    _base: str | None
    _http: HttpClient

    @property
    def is_there(self) -> bool:
        return self._base is not None

    async def request_token(
        self,
        *,
        client_secret: str,
        country: str,
        phone_number: str,
        send_attempt: int,
        next_link: str | None,
    ) -> PhoneSession:
        """Have a text message sent. Raises: MatrixError, ThreepidDenied, RemoteFault."""
        content: dict[str, Any] = {
            "client_secret": client_secret,
            "country": country,
            "phone_number": phone_number,
            "send_attempt": send_attempt,
        }
        if next_link is not None:
            content["next_link"] = next_link
        answer = await self._post("/validate/msisdn/requestToken", content)
        sid = answer.get("sid")
        if not isinstance(sid, str):
            raise RemoteFault(_NAME, "The delegate for text messages gives no session")
        return PhoneSession(sid, _text(answer, "msisdn"), _text(answer, "submit_url"))

    async def submit(self, sid: str, client_secret: str, token: str) -> bool:
        """Hand in what the message said; tell whether it is right. Raises: as `request_token`."""
        content = {"sid": sid, "client_secret": client_secret, "token": token}
        answer = await self._post("/validate/msisdn/submitToken", content)
        return answer.get("success") is True

    async def validated(self, sid: str, client_secret: str) -> ValidatedPhone | None:
        """Give the number a session proved, or None. Raises: RemoteFault, ThreepidDenied."""
        base = self._server()
        query = {"sid": sid, "client_secret": client_secret}
        try:
            answer = await IdentityHttp(self._http).get(base, V1 + "/3pid/getValidated3pid", query)
        except (NoMatrixError, MatrixError):
            # Not validated, run out, or never there: each is a Matrix error of its own.
            return None
        except RemoteFault as fault:
            raise RemoteFault(_NAME, fault.message) from fault
        address, at = answer.get("address"), answer.get("validated_at")
        if answer.get("medium") != "msisdn" or not isinstance(address, str):
            return None
        return ValidatedPhone(address, at if isinstance(at, int) else 0)

    async def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        base = self._server()
        try:
            return await IdentityHttp(self._http).post(base, V1 + path, content, None)
        except NoMatrixError as error:
            raise RemoteFault(_NAME, f"The delegate for text messages fails: {error}") from error
        except RemoteFault as fault:
            raise RemoteFault(_NAME, fault.message) from fault

    def _server(self) -> str:
        if self._base is None:
            raise ThreepidDenied("This server sends no text messages")
        return self._base


def _text(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return value if isinstance(value, str) else None
