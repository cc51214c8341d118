"""The configured requirements for registration: the UIA flows and their parameters.

Spec: client-server API, Account registration, User-Interactive Authentication API.
"""

from itertools import product
from typing import Any

import attrs

from hs.core.errors import Forbidden
from hs.services.accounts.limits.consent_requirement import ConsentRequirement
from hs.services.accounts.sessions.interactive_auth import DUMMY, REGISTRATION_TOKEN, Flows
from hs.services.accounts.sessions.server_blocking import check_is_open
from hs.services.accounts.threepids.validation_stages import (
    EMAIL_IDENTITY,
    MSISDN,
    RECAPTCHA,
    TERMS,
)
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.retention import BlockingSettings
from hs.settings.sections.threepids import ThreepidSettings


@attrs.frozen(eq=False, kw_only=True)
class RegistrationRequirements:
    """The stages that new users must complete, and the optional ones."""

    registration: RegistrationSettings
    threepids: ThreepidSettings
    consent: ConsentRequirement
    sends_mail: bool = False
    sends_texts: bool = False
    captcha_key: str | None = None
    blocking: BlockingSettings = BlockingSettings()

    def check_is_enabled(self) -> None:
        """Check that users can register.

        Raises: Forbidden, ResourceLimitExceeded.
        """
        check_is_open(self.blocking, is_admin=False)
        if not self.registration.enable_registration:
            raise Forbidden("Registration is disabled")
        if not self._threepid_flows():
            raise Forbidden(
                "Registration requires a third-party identifier, which this server cannot validate"
            )

    @property
    def requires_token(self) -> bool:
        """Whether registration requires a token."""
        return self.registration.registration_requires_token

    def flows(self) -> Flows:
        """Return the UIA flows of registration."""
        common = []
        if self.requires_token:
            common.append(REGISTRATION_TOKEN)
        if self.threepids.enable_registration_captcha:
            common.append(RECAPTCHA)
        if self.consent.is_required_at_registration:
            common.append(TERMS)
        return [
            [*common, *threepid_stages] or [DUMMY] for threepid_stages in self._threepid_flows()
        ]

    def params(self) -> dict[str, Any]:
        """Return the parameters of the stages."""
        params: dict[str, Any] = {}
        if self.threepids.enable_registration_captcha:
            params[RECAPTCHA] = {"public_key": self.captcha_key}
        if self.consent.is_required_at_registration:
            params[TERMS] = self.consent.policies()
        return params

    def _threepid_flows(self) -> list[list[str]]:
        """Return the combinations of e-mail and phone stages, the shortest first."""
        email_options = self._stage_options("email", EMAIL_IDENTITY, self.sends_mail)
        takes_msisdn = self.sends_texts and not self.threepids.disable_msisdn_registration
        msisdn_options = self._stage_options("msisdn", MSISDN, takes_msisdn)
        combinations = product(msisdn_options, email_options)
        return [[*email_stages, *msisdn_stages] for msisdn_stages, email_stages in combinations]

    def _stage_options(self, medium: str, stage: str, is_possible: bool) -> list[list[str]]:
        is_required = medium in self.registration.registrations_require_3pid
        optional: list[list[str]] = [] if is_required else [[]]
        return [*optional, [stage]] if is_possible else optional
