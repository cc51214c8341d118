"""Asking to prove an address: who may, for what, how often, and what they are told.

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
from hs.lib.phone_numbers import international
from hs.services.accounts.limits.rate_limits import bucket_of, refuse_over
from hs.services.accounts.threepids.threepid_validation import AddressProofs, Asked, PhoneProof
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_emails import Purpose
from hs.settings.sections.rate_limits import RateLimitSettings
from hs.settings.sections.threepids import ThreepidSettings


@attrs.define(eq=False)
class ProofRequests:
    """Decides whether a message is sent."""

    _proofs: AddressProofs
    _threepids: Threepids
    _settings: ThreepidSettings
    _rates: RateLimitSettings
    _per_address: RateLimiter[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._per_address = RateLimiter(bucket_of(self._rates.rc_3pid_validation))

    async def by_mail(self, asked: Asked, email: str, id_server: str | None) -> str:
        """Send a link to an address; give the session.

        Raises: InvalidParam, ThreepidDenied, ThreepidInUse, ThreepidNotFound, LimitExceeded,
        ThreepidMediumNotSupported, ServerNotTrusted, Unavailable.
        """
        address = canonical_email(email)
        self._check(asked, EMAIL, address, self._proofs.sends_mail, id_server)
        if await self._is_misplaced(asked, EMAIL, address):
            if asked.purpose is not Purpose.RESET:
                await self._proofs.mails.tell_in_use(address)
            return self._proofs.made_up_sid()
        return await self._proofs.begin_by_mail(asked, address)

    async def by_phone(
        self, asked: Asked, country: str, number: str, id_server: str | None
    ) -> PhoneProof:
        """Have a text message sent; give the session. Raises: as `by_mail`, RemoteFault."""
        address = international(country, number) or canonical_msisdn(number)
        self._check(asked, MSISDN, address, self._proofs.sends_texts, id_server)
        if await self._is_misplaced(asked, MSISDN, address):
            # Nobody can be told by telephone; whoever asks waits for a message in vain.
            return self._proofs.made_up_proof(address)
        return await self._proofs.begin_by_phone(asked, country, number)

    def _check(
        self, asked: Asked, medium: str, address: str, is_possible: bool, id_server: str | None
    ) -> None:
        check_client_secret(asked.client_secret)
        self._check_next_link(asked.next_link)
        if not is_possible:
            if id_server is not None:
                raise ServerNotTrusted("This server leaves no validation to identity servers")
            raise ThreepidMediumNotSupported("This server sends no such messages")
        registering = asked.purpose is Purpose.REGISTER
        if asked.purpose is not Purpose.RESET:
            self._threepids.check_allowed(medium, address, registering=registering)
        refuse_over(self._per_address, f"{medium} {address}")

    async def _is_misplaced(self, asked: Asked, medium: str, address: str) -> bool:
        """Tell whether the address has an owner where none may be, or none where one must be.

        Raises: ThreepidInUse, ThreepidNotFound, ThreepidDenied, unless that is kept from those
        who ask.
        """
        is_owned = await self._threepids.owner(medium, address) is not None
        is_misplaced = is_owned is not (asked.purpose is Purpose.RESET)
        if not is_misplaced or self._settings.request_token_inhibit_3pid_errors:
            return is_misplaced
        if is_owned:
            raise ThreepidInUse("An account has this address already")
        # Who has an address from before it was forbidden may still use it; nobody else will.
        self._threepids.check_allowed(medium, address)
        raise ThreepidNotFound("No account has this address")

    def _check_next_link(self, link: str | None) -> None:
        if not link:
            return
        try:
            parts = urlsplit(link)
            host = parts.hostname
        except ValueError as error:
            raise InvalidParam("next_link is not a URL") from error
        allowed = self._settings.next_link_domain_whitelist
        if parts.scheme not in ("http", "https") and allowed is None:
            # Apps have schemes of their own; what a browser would run or open is not among them.
            if parts.scheme in ("", "file", "javascript", "data", "vbscript", "blob", "about"):
                raise InvalidParam("next_link must lead to a site or an app")
            return
        if parts.scheme not in ("http", "https") or not host:
            raise InvalidParam("next_link must lead to a site")
        if allowed is not None and host not in allowed:
            raise InvalidParam("next_link leads to a domain that is not on this server's list")
