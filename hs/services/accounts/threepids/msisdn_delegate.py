"""Validation of phone numbers by the server configured in `account_threepid_delegates`.

The client uses version 1 of the identity service API, which such delegates implement.
"""

from typing import Any

import attrs

from hs.core.errors import MatrixError, RemoteFault, ThreepidDenied
from hs.lib.http_client import HttpClient
from hs.services.accounts.threepids.identity_server_client import (
    IdentityServerClient,
    NonMatrixError,
)

V1 = "/_matrix/identity/api/v1"

# The server name in errors: clients must not learn the address of the delegate.
_NAME = "for text messages"


@attrs.frozen
class PhoneSession:
    """A pending validation session; `submit_url` is that of the delegate, if it returns one."""

    sid: str
    msisdn: str | None
    submit_url: str | None


@attrs.frozen
class ValidatedPhone:
    """A validated phone number in international format."""

    address: str
    validated_at: int


@attrs.frozen(eq=False)
class MsisdnDelegate:
    """The client of the delegate; without a `base`, no text messages are sent."""

    _base: str | None
    _http: HttpClient

    @property
    def is_configured(self) -> bool:
        """Whether text messages can be sent."""
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
        """Request a text message. Raises: MatrixError, ThreepidDenied, RemoteFault."""
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
            raise RemoteFault(_NAME, "The response of the delegate for text messages lacks 'sid'")
        return PhoneSession(
            sid, _optional_string(answer, "msisdn"), _optional_string(answer, "submit_url")
        )

    async def submit(self, sid: str, client_secret: str, token: str) -> bool:
        """Submit the token of a message; return whether it is correct.

        Raises: as `request_token`.
        """
        content = {"sid": sid, "client_secret": client_secret, "token": token}
        answer = await self._post("/validate/msisdn/submitToken", content)
        return answer.get("success") is True

    async def validated(self, sid: str, client_secret: str) -> ValidatedPhone | None:
        """Return the number that a session validated, or None.

        Raises: RemoteFault, ThreepidDenied.
        """
        base = self._require_base()
        query = {"sid": sid, "client_secret": client_secret}
        try:
            answer = await IdentityServerClient(self._http).get(
                base, V1 + "/3pid/getValidated3pid", query
            )
        except (NonMatrixError, MatrixError):
            # Not validated, expired or unknown: the delegate returns a Matrix error for each.
            return None
        except RemoteFault as fault:
            raise RemoteFault(_NAME, fault.message) from fault
        address, validated_at = answer.get("address"), answer.get("validated_at")
        if answer.get("medium") != "msisdn" or not isinstance(address, str):
            return None
        return ValidatedPhone(address, validated_at if isinstance(validated_at, int) else 0)

    async def _post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        base = self._require_base()
        try:
            return await IdentityServerClient(self._http).post(base, V1 + path, content, None)
        except NonMatrixError as error:
            raise RemoteFault(_NAME, f"The delegate for text messages failed: {error}") from error
        except RemoteFault as fault:
            raise RemoteFault(_NAME, fault.message) from fault

    def _require_base(self) -> str:
        if self._base is None:
            raise ThreepidDenied("This server does not send text messages")
        return self._base


def _optional_string(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return value if isinstance(value, str) else None
