"""Requests for validation tokens: checks, rate limits and the hiding of existing accounts.

Spec: client-server API, Adding account administrative contact information.
"""

from urllib.parse import urlsplit

import attrs

from hs.core.errors import (
    InvalidParam,
    ServerNotTrusted,
    ThreepidInUse,
    ThreepidMediumNotSupported,
    ThreepidNotFound,
)
from hs.core.threepids import EMAIL, MSISDN, canonical_email, canonical_msisdn, check_client_secret
from hs.lib.limiter import RateLimiter
from hs.lib.phone_numbers import international_digits
from hs.services.accounts.limits.rate_limits import bucket_of, enforce_limit
from hs.services.accounts.threepids.threepid_validation import (
    PendingPhoneValidation,
    ThreepidValidation,
    ValidationRequest,
)
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_emails import ValidationPurpose
from hs.settings.sections.rate_limits import RateLimitSettings
from hs.settings.sections.threepids import ThreepidSettings


@attrs.define(eq=False)
class ValidationRequests:
    """The checks before a validation message is sent."""

    _proofs: ThreepidValidation
    _threepids: Threepids
    _settings: ThreepidSettings
    _rates: RateLimitSettings
    _per_address: RateLimiter[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._per_address = RateLimiter(bucket_of(self._rates.rc_3pid_validation))

    async def by_mail(self, request: ValidationRequest, email: str, id_server: str | None) -> str:
        """Send a link to an address; return the session ID.

        Raises: InvalidParam, ThreepidDenied, ThreepidInUse, ThreepidNotFound, LimitExceeded,
        ThreepidMediumNotSupported, ServerNotTrusted, Unavailable.
        """
        address = canonical_email(email)
        self._check(request, EMAIL, address, self._proofs.sends_mail, id_server)
        if await self._has_wrong_ownership(request, EMAIL, address):
            if request.purpose is not ValidationPurpose.RESET:
                await self._proofs.mails.send_already_in_use(address)
            return self._proofs.fake_sid()
        return await self._proofs.begin_email(request, address)

    async def by_phone(
        self, request: ValidationRequest, country: str, number: str, id_server: str | None
    ) -> PendingPhoneValidation:
        """Request a text message; return the session. Raises: as `by_mail`, RemoteFault."""
        address = international_digits(country, number) or canonical_msisdn(number)
        self._check(request, MSISDN, address, self._proofs.sends_texts, id_server)
        if await self._has_wrong_ownership(request, MSISDN, address):
            # There is no text message for this case: the client waits for one in vain.
            return self._proofs.fake_phone_validation(address)
        return await self._proofs.begin_phone(request, country, number)

    def _check(
        self,
        request: ValidationRequest,
        medium: str,
        address: str,
        is_possible: bool,
        id_server: str | None,
    ) -> None:
        check_client_secret(request.client_secret)
        self._check_next_link(request.next_link)
        if not is_possible:
            if id_server is not None:
                raise ServerNotTrusted(
                    "This server does not delegate validation to identity servers"
                )
            raise ThreepidMediumNotSupported(
                "This server cannot validate third-party identifiers of this medium"
            )
        registering = request.purpose is ValidationPurpose.REGISTER
        if request.purpose is not ValidationPurpose.RESET:
            self._threepids.check_allowed(medium, address, registering=registering)
        enforce_limit(self._per_address, f"{medium} {address}")

    async def _has_wrong_ownership(
        self, request: ValidationRequest, medium: str, address: str
    ) -> bool:
        """Return whether the identifier has an owner although it must not, or vice versa.

        Raises: ThreepidInUse, ThreepidNotFound, ThreepidDenied, unless the settings hide this
        from clients.
        """
        is_owned = await self._threepids.owner(medium, address) is not None
        is_wrong = is_owned is not (request.purpose is ValidationPurpose.RESET)
        if not is_wrong or self._settings.request_token_inhibit_3pid_errors:
            return is_wrong
        if is_owned:
            raise ThreepidInUse("Another account has this third-party identifier")
        # An identifier that was added before it was disallowed can still be used, others cannot.
        self._threepids.check_allowed(medium, address)
        raise ThreepidNotFound("No account has this third-party identifier")

    def _check_next_link(self, link: str | None) -> None:
        if not link:
            return
        try:
            parts = urlsplit(link)
            host = parts.hostname
        except ValueError as error:
            raise InvalidParam("next_link is not a valid URL") from error
        allowed = self._settings.next_link_domain_whitelist
        if parts.scheme not in ("http", "https") and allowed is None:
            # Apps have their own URL schemes. Those that a browser executes or opens are rejected.
            if parts.scheme in ("", "file", "javascript", "data", "vbscript", "blob", "about"):
                raise InvalidParam("next_link must be the URL of a web site or an app")
            return
        if parts.scheme not in ("http", "https") or not host:
            raise InvalidParam("next_link must be an http or https URL")
        if allowed is not None and host not in allowed:
            raise InvalidParam("The domain of next_link is not allowed on this server")
