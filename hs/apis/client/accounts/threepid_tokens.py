"""Asking for a message that proves an address: `…/requestToken`."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.services.accounts.threepids.threepid_validation import Asked
from hs.services.accounts.threepids.validation_emails import Purpose
from hs.services.accounts.threepids.validation_requests import ProofRequests

V3 = "/_matrix/client/v3"
RATE = "3pid_validation"


@attrs.frozen
class MailRequest:
    """Body of `…/email/requestToken`."""

    client_secret: str = body()
    email: str = body()
    send_attempt: int = body()
    next_link: str | None = body(default=None)
    id_server: str | None = body(default=None)

    def for_(self, purpose: Purpose) -> Asked:
        return Asked(
            purpose=purpose,
            client_secret=self.client_secret,
            attempt=self.send_attempt,
            next_link=self.next_link,
        )


@attrs.frozen
class PhoneRequest:
    """Body of `…/msisdn/requestToken`."""

    client_secret: str = body()
    country: str = body()
    phone_number: str = body()
    send_attempt: int = body()
    next_link: str | None = body(default=None)
    id_server: str | None = body(default=None)

    def for_(self, purpose: Purpose) -> Asked:
        return Asked(
            purpose=purpose,
            client_secret=self.client_secret,
            attempt=self.send_attempt,
            next_link=self.next_link,
        )


@attrs.frozen
class AddressTokensApi:
    """The six endpoints; nobody need be logged in for any."""

    requests: ProofRequests

    @route("POST", V3 + "/register/email/requestToken", auth=NONE, rate=RATE)
    async def mail_to_register(self, request: MailRequest) -> dict[str, Any]:
        """Spec: client-server API, Account registration."""
        return await self._by_mail(Purpose.REGISTER, request)

    @route("POST", V3 + "/account/password/email/requestToken", auth=NONE, rate=RATE)
    async def mail_to_reset(self, request: MailRequest) -> dict[str, Any]:
        """Spec: client-server API, Password management."""
        return await self._by_mail(Purpose.RESET, request)

    @route("POST", V3 + "/account/3pid/email/requestToken", auth=NONE, rate=RATE)
    async def mail_to_add(self, request: MailRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        return await self._by_mail(Purpose.ADD, request)

    @route("POST", V3 + "/register/msisdn/requestToken", auth=NONE, rate=RATE)
    async def text_to_register(self, request: PhoneRequest) -> dict[str, Any]:
        """Spec: client-server API, Account registration."""
        return await self._by_phone(Purpose.REGISTER, request)

    @route("POST", V3 + "/account/password/msisdn/requestToken", auth=NONE, rate=RATE)
    async def text_to_reset(self, request: PhoneRequest) -> dict[str, Any]:
        """Spec: client-server API, Password management."""
        return await self._by_phone(Purpose.RESET, request)

    @route("POST", V3 + "/account/3pid/msisdn/requestToken", auth=NONE, rate=RATE)
    async def text_to_add(self, request: PhoneRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        return await self._by_phone(Purpose.ADD, request)

    async def _by_mail(self, purpose: Purpose, request: MailRequest) -> dict[str, Any]:
        sid = await self.requests.by_mail(request.for_(purpose), request.email, request.id_server)
        return {"sid": sid}

    async def _by_phone(self, purpose: Purpose, request: PhoneRequest) -> dict[str, Any]:
        proof = await self.requests.by_phone(
            request.for_(purpose), request.country, request.phone_number, request.id_server
        )
        return {
            "success": True,
            "sid": proof.sid,
            "msisdn": proof.msisdn,
            "intl_fmt": f"+{proof.msisdn}",
            "submit_url": proof.submit_url,
        }
