"""Requesting a validation token by e-mail or text message: `…/requestToken`."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.services.accounts.threepids.threepid_validation import ValidationRequest
from hs.services.accounts.threepids.validation_emails import ValidationPurpose
from hs.services.accounts.threepids.validation_requests import ValidationRequests

V3 = "/_matrix/client/v3"
RATE = "3pid_validation"


@attrs.frozen
class EmailTokenRequest:
    """POST …/email/requestToken."""

    client_secret: str = body()
    email: str = body()
    send_attempt: int = body()
    next_link: str | None = body(default=None)
    id_server: str | None = body(default=None)

    def for_purpose(self, purpose: ValidationPurpose) -> ValidationRequest:
        return ValidationRequest(
            purpose=purpose,
            client_secret=self.client_secret,
            attempt=self.send_attempt,
            next_link=self.next_link,
        )


@attrs.frozen
class MsisdnTokenRequest:
    """POST …/msisdn/requestToken."""

    client_secret: str = body()
    country: str = body()
    phone_number: str = body()
    send_attempt: int = body()
    next_link: str | None = body(default=None)
    id_server: str | None = body(default=None)

    def for_purpose(self, purpose: ValidationPurpose) -> ValidationRequest:
        return ValidationRequest(
            purpose=purpose,
            client_secret=self.client_secret,
            attempt=self.send_attempt,
            next_link=self.next_link,
        )


@attrs.frozen
class ThreepidTokensApi:
    """Endpoints that send validation tokens; none requires a login."""

    validation_requests: ValidationRequests

    @route("POST", V3 + "/register/email/requestToken", auth=NONE, rate=RATE)
    async def request_email_token_to_register(self, request: EmailTokenRequest) -> dict[str, Any]:
        """Spec: client-server API, Account registration."""
        return await self._send_email(ValidationPurpose.REGISTER, request)

    @route("POST", V3 + "/account/password/email/requestToken", auth=NONE, rate=RATE)
    async def request_email_token_to_reset_password(
        self, request: EmailTokenRequest
    ) -> dict[str, Any]:
        """Spec: client-server API, Password management."""
        return await self._send_email(ValidationPurpose.RESET, request)

    @route("POST", V3 + "/account/3pid/email/requestToken", auth=NONE, rate=RATE)
    async def request_email_token_to_add(self, request: EmailTokenRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        return await self._send_email(ValidationPurpose.ADD, request)

    @route("POST", V3 + "/register/msisdn/requestToken", auth=NONE, rate=RATE)
    async def request_msisdn_token_to_register(self, request: MsisdnTokenRequest) -> dict[str, Any]:
        """Spec: client-server API, Account registration."""
        return await self._send_text_message(ValidationPurpose.REGISTER, request)

    @route("POST", V3 + "/account/password/msisdn/requestToken", auth=NONE, rate=RATE)
    async def request_msisdn_token_to_reset_password(
        self, request: MsisdnTokenRequest
    ) -> dict[str, Any]:
        """Spec: client-server API, Password management."""
        return await self._send_text_message(ValidationPurpose.RESET, request)

    @route("POST", V3 + "/account/3pid/msisdn/requestToken", auth=NONE, rate=RATE)
    async def request_msisdn_token_to_add(self, request: MsisdnTokenRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        return await self._send_text_message(ValidationPurpose.ADD, request)

    async def _send_email(
        self, purpose: ValidationPurpose, request: EmailTokenRequest
    ) -> dict[str, Any]:
        sid = await self.validation_requests.by_mail(
            request.for_purpose(purpose), request.email, request.id_server
        )
        return {"sid": sid}

    async def _send_text_message(
        self, purpose: ValidationPurpose, request: MsisdnTokenRequest
    ) -> dict[str, Any]:
        session = await self.validation_requests.by_phone(
            request.for_purpose(purpose), request.country, request.phone_number, request.id_server
        )
        return {
            "success": True,
            "sid": session.sid,
            "msisdn": session.msisdn,
            "intl_fmt": f"+{session.msisdn}",
            "submit_url": session.submit_url,
        }
