"""Validation of third-party identifiers: links in e-mails, and codes from text messages."""

from typing import Any
from urllib.parse import parse_qs

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response, redirect
from hs.apis.web.request import body, query, raw_body
from hs.apis.web.route import route
from hs.core.errors import MissingParam, ThreepidAuthFailed
from hs.lib.mail.templates import Templates
from hs.services.accounts.threepids.threepid_validation import ThreepidValidation
from hs.services.accounts.threepids.validation_emails import (
    PHONE_SUBMIT_PATH,
    SUBMIT_PATHS,
    TEMPLATES,
    ValidationPurpose,
)


@attrs.frozen
class ValidationLinkRequest:
    """GET of a validation link from an e-mail."""

    sid: str = query()
    client_secret: str = query()
    token: str = query()


@attrs.frozen
class ValidationFormRequest:
    """POST of the form on the page behind a link; its fields may also be in the query."""

    sid: str = query(default="")
    client_secret: str = query(default="")
    token: str = query(default="")
    form: bytes = raw_body()

    def link_request(self) -> ValidationLinkRequest:
        """Return the fields as the link has them. Raises: MissingParam."""
        form = parse_qs(self.form.decode("utf-8", "replace"))
        fields = {
            name: form.get(name, [getattr(self, name)])[0]
            for name in ("sid", "client_secret", "token")
        }
        for name, value in fields.items():
            if not value or "\0" in value:
                raise MissingParam(f"Missing {name}")
        return ValidationLinkRequest(**fields)


@attrs.frozen
class SubmitPhoneTokenRequest:
    """POST of the code from a text message."""

    sid: str = body()
    client_secret: str = body()
    token: str = body()


@attrs.frozen
class ThreepidValidationApi:
    """Endpoints that validate third-party identifiers, and their pages."""

    validations: ThreepidValidation
    pages: Templates

    @route("GET", SUBMIT_PATHS[ValidationPurpose.REGISTER], auth=NONE)
    async def submit_registration_link(self, request: ValidationLinkRequest) -> Response:
        """Validate an e-mail address for registration."""
        return await self._submit(ValidationPurpose.REGISTER, request)

    @route("GET", SUBMIT_PATHS[ValidationPurpose.ADD], auth=NONE)
    async def submit_add_link(self, request: ValidationLinkRequest) -> Response:
        """Validate an e-mail address that a user adds to their account."""
        return await self._submit(ValidationPurpose.ADD, request)

    @route("GET", SUBMIT_PATHS[ValidationPurpose.RESET], auth=NONE)
    async def show_reset_confirmation(self, request: ValidationLinkRequest) -> Response:
        """Ask the user to confirm the password reset, as mail scanners also open links."""
        page = self.pages.render(
            "password_reset_confirmation.html",
            sid=request.sid,
            client_secret=request.client_secret,
            token=request.token,
        )
        return html_response(page)

    @route("POST", SUBMIT_PATHS[ValidationPurpose.RESET], auth=NONE)
    async def submit_reset_form(self, request: ValidationFormRequest) -> Response:
        """Validate an e-mail address for a password reset, after its confirmation."""
        return await self._submit(ValidationPurpose.RESET, request.link_request())

    # The code of a text message is short, so attempts are rate-limited against guessing.
    @route("POST", PHONE_SUBMIT_PATH, auth=NONE, rate="3pid_validation")
    async def submit_phone_token(self, request: SubmitPhoneTokenRequest) -> dict[str, Any]:
        """Spec: identity service API, Phone number associations, submitToken."""
        is_valid = await self.validations.submit_phone_token(
            request.sid, request.client_secret, request.token
        )
        return {"success": is_valid}

    async def _submit(self, purpose: ValidationPurpose, request: ValidationLinkRequest) -> Response:
        name = TEMPLATES[purpose]
        try:
            next_link = await self.validations.submit_email_token(
                purpose, request.sid, request.client_secret, request.token
            )
        except ThreepidAuthFailed as error:
            page = self.pages.render(f"{name}_failure.html", failure_reason=error.message)
            return html_response(page, 400)
        if next_link:
            return redirect(next_link)
        return html_response(self.pages.render(f"{name}_success.html"))
