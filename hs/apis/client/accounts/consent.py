"""The page on which users read the terms of use and agree to them."""

import re
from typing import Final
from urllib.parse import parse_qs

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response
from hs.apis.web.request import query, raw_body
from hs.apis.web.route import route
from hs.core.errors import NotFound
from hs.core.ids import ServerName, UserID
from hs.lib.mail.templates import Templates
from hs.services.accounts.limits.consent_requirement import PATH
from hs.services.accounts.terms.policy_consent import PolicyConsent

LANGUAGE: Final = "en"
_VERSION = re.compile(r"[0-9A-Za-z_.-]{1,100}")


@attrs.frozen
class ShowConsentRequest:
    """GET /_matrix/consent: the user, the proof from the link, and the version of the terms.

    Without a user, the page is public and has no button.
    """

    u: str = query(default="")
    h: str = query(default="")
    v: str = query(default="")


@attrs.frozen
class SubmitConsentRequest:
    """POST /_matrix/consent: the submitted form."""

    form: bytes = raw_body()


@attrs.frozen
class ConsentApi:
    """The consent page."""

    consent: PolicyConsent
    terms: Templates
    pages: Templates
    server_name: ServerName

    @route("GET", PATH, auth=NONE, resources=("client", "consent"))
    async def show_consent(self, request: ShowConsentRequest) -> Response:
        """Return the terms, with a button for the user for whom the link was created."""
        version = request.v or self._current_version()
        name = f"{LANGUAGE}/{version}.html"
        if not _VERSION.fullmatch(version) or ".." in version or not self.terms.has(name):
            return self._error_page("This version of the terms does not exist")
        has_consented = False
        if request.u:
            if not self.consent.rule.is_valid_signature(request.u, request.h):
                return self._error_page("This link is not valid")
            agreed_version = await self.consent.agreed_version(self._user_id(request.u))
            has_consented = agreed_version == version
        page = self.terms.render(
            name,
            user=request.u,
            userhmac=request.h,
            version=version,
            has_consented=has_consented,
            public_version=not request.u,
        )
        return html_response(page)

    @route("POST", PATH, auth=NONE, resources=("client", "consent"))
    async def submit_consent(self, request: SubmitConsentRequest) -> Response:
        """Record that the user agrees."""
        form = parse_qs(request.form.decode("utf-8", "replace"))
        localpart, proof, version = (form.get(name, [""])[0] for name in ("u", "h", "v"))
        self._current_version()
        if "\0" in localpart or not self.consent.rule.is_valid_signature(localpart, proof):
            return self._error_page("This link is not valid")
        if not _VERSION.fullmatch(version):
            return self._error_page("This version of the terms does not exist")
        if not await self.consent.agree(self._user_id(localpart), version):
            return self._error_page("This user does not exist")
        custom_page = f"{LANGUAGE}/success.html"
        if self.terms.has(custom_page):
            return html_response(self.terms.render(custom_page))
        return html_response(self.pages.render("consent_success.html"))

    def _user_id(self, localpart: str) -> UserID:
        return UserID(f"@{localpart}:{self.server_name}")

    def _current_version(self) -> str:
        """Raise NotFound if no terms are configured."""
        version = self.consent.rule.version
        if version is None:
            raise NotFound("This server has no terms of use")
        return version

    def _error_page(self, reason: str) -> Response:
        return html_response(self.pages.render("consent_refused.html", reason=reason), 400)
