"""What a new user must prove, as the configuration says.

Spec: client-server API, Account registration, User-Interactive Authentication API.
"""

from itertools import product
from typing import Any

import attrs

from hs.core.errors import Forbidden
from hs.services.accounts.limits.consent_requirement import ConsentRule
from hs.services.accounts.sessions.interactive_auth import DUMMY, REGISTRATION_TOKEN, Flows
from hs.services.accounts.threepids.validation_stages import (
    EMAIL_IDENTITY,
    MSISDN,
    RECAPTCHA,
    TERMS,
)
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.threepids import ThreepidSettings


@attrs.frozen(eq=False, kw_only=True)
class Requirements:
    """What is asked of new users, and what they may offer besides."""

    registration: RegistrationSettings
    threepids: ThreepidSettings
    consent: ConsentRule
    sends_mail: bool = False
    sends_texts: bool = False
    captcha_key: str | None = None

    def check_is_open(self) -> None:
        """Refuse when nobody may register.

        Raises: Forbidden.
        """
        if not self.registration.enable_registration:
            raise Forbidden("Registration is disabled")
        if not self._address_flows():
            raise Forbidden("This server takes only users with an address, which it cannot check")

    @property
    def asks_for_token(self) -> bool:
        """Tell whether registering needs a token."""
        return self.registration.registration_requires_token

    def flows(self) -> Flows:
        """Give what must be proved in order to register."""
        first = []
        if self.asks_for_token:
            first.append(REGISTRATION_TOKEN)
        if self.threepids.enable_registration_captcha:
            first.append(RECAPTCHA)
        if self.consent.is_asked_of_new_users:
            first.append(TERMS)
        return [[*first, *addresses] or [DUMMY] for addresses in self._address_flows()]

    def params(self) -> dict[str, Any]:
        """Give what clients need to know of the stages."""
        params: dict[str, Any] = {}
        if self.threepids.enable_registration_captcha:
            params[RECAPTCHA] = {"public_key": self.captcha_key}
        if self.consent.is_asked_of_new_users:
            params[TERMS] = self.consent.policies()
        return params

    def _address_flows(self) -> list[list[str]]:
        """List the combinations of addresses, those that need least first."""
        mail_choices = self._choices("email", EMAIL_IDENTITY, self.sends_mail)
        may_text = self.sends_texts and not self.threepids.disable_msisdn_registration
        text_choices = self._choices("msisdn", MSISDN, may_text)
        return [[*mail, *text] for text, mail in product(text_choices, mail_choices)]

    def _choices(self, medium: str, stage: str, is_possible: bool) -> list[list[str]]:
        is_required = medium in self.registration.registrations_require_3pid
        without: list[list[str]] = [] if is_required else [[]]
        return [*without, [stage]] if is_possible else without
