"""Where the links in e-mails lead, and where the codes of text messages are handed in."""

from typing import Any
from urllib.parse import parse_qs

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response, redirect
from hs.apis.web.request import body, query, raw_body
from hs.apis.web.route import route
from hs.core.errors import MissingParam, ThreepidAuthFailed
from hs.lib.mail.templates import Templates
from hs.services.accounts.threepids.threepid_validation import AddressProofs
from hs.services.accounts.threepids.validation_emails import (
    PHONE_SUBMIT_PATH,
    SUBMIT_PATHS,
    TEMPLATES,
    Purpose,
)


@attrs.frozen
class LinkRequest:
    """What a link in an e-mail says."""

    sid: str = query()
    client_secret: str = query()
    token: str = query()


@attrs.frozen
class FormRequest:
    """The form of the page that a link shows; a client may put its fields into the query."""

    sid: str = query(default="")
    client_secret: str = query(default="")
    token: str = query(default="")
    form: bytes = raw_body()

    def filled(self) -> LinkRequest:
        """Give the fields. Raises: MissingParam."""
        given = parse_qs(self.form.decode("utf-8", "replace"))
        found = {
            name: given.get(name, [getattr(self, name)])[0]
            for name in ("sid", "client_secret", "token")
        }
        for name, value in found.items():
            if not value or "\0" in value:
                raise MissingParam(f"Missing {name}")
        return LinkRequest(**found)


@attrs.frozen
class CodeRequest:
    """Body of a request that hands in the code of a text message."""

    sid: str = body()
    client_secret: str = body()
    token: str = body()


@attrs.frozen
class AddressPagesApi:
    """The pages."""

    proofs: AddressProofs
    pages: Templates

    @route("GET", SUBMIT_PATHS[Purpose.REGISTER], auth=NONE)
    async def registering(self, request: LinkRequest) -> Response:
        """Take the link of an e-mail to a new user."""
        return await self._submit(Purpose.REGISTER, request)

    @route("GET", SUBMIT_PATHS[Purpose.ADD], auth=NONE)
    async def adding(self, request: LinkRequest) -> Response:
        """Take the link of an e-mail to a user who adds an address."""
        return await self._submit(Purpose.ADD, request)

    @route("GET", SUBMIT_PATHS[Purpose.RESET], auth=NONE)
    async def ask_before_reset(self, request: LinkRequest) -> Response:
        """Ask whether it was really its reader who forgot a password."""
        page = self.pages.render(
            "password_reset_confirmation.html",
            sid=request.sid,
            client_secret=request.client_secret,
            token=request.token,
        )
        return html_response(page)

    @route("POST", SUBMIT_PATHS[Purpose.RESET], auth=NONE)
    async def resetting(self, request: FormRequest) -> Response:
        """Take the answer to that."""
        return await self._submit(Purpose.RESET, request.filled())

    # A code of a text message is short: it must not be found by trying.
    @route("POST", PHONE_SUBMIT_PATH, auth=NONE, rate="3pid_validation")
    async def code(self, request: CodeRequest) -> dict[str, Any]:
        """Spec: identity service API, Phone number associations, submitToken."""
        done = await self.proofs.submit_phone(request.sid, request.client_secret, request.token)
        return {"success": done}

    async def _submit(self, purpose: Purpose, request: LinkRequest) -> Response:
        name = TEMPLATES[purpose]
        try:
            next_link = await self.proofs.submit_mail(
                purpose, request.sid, request.client_secret, request.token
            )
        except ThreepidAuthFailed as error:
            page = self.pages.render(f"{name}_failure.html", failure_reason=error.message)
            return html_response(page, 400)
        if next_link:
            return redirect(next_link)
        return html_response(self.pages.render(f"{name}_success.html"))
