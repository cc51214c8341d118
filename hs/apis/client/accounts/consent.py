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
from hs.services.accounts.terms.policy_consent import Consent

LANGUAGE: Final = "en"
_VERSION = re.compile(r"[0-9A-Za-z_.-]{1,100}")


@attrs.frozen
class ShowRequest:
    """Which version, and who reads; without a user it is the public page."""

    u: str = query(default="")
    h: str = query(default="")
    v: str = query(default="")


@attrs.frozen
class AgreeRequest:
    """The form of the page."""

    form: bytes = raw_body()


@attrs.frozen
class ConsentApi:
    """`/_matrix/consent`."""

    consent: Consent
    terms: Templates
    pages: Templates
    server_name: ServerName

    @route("GET", PATH, auth=NONE, resources=("client", "consent"))
    async def show(self, request: ShowRequest) -> Response:
        """Show the terms, with a button for the user whom the link was made for."""
        version = request.v or self._current()
        name = f"{LANGUAGE}/{version}.html"
        if not _VERSION.fullmatch(version) or ".." in version or not self.terms.has(name):
            return self._refused("There are no such terms")
        has_consented = False
        if request.u:
            if not self.consent.rule.is_proof(request.u, request.h):
                return self._refused("This link was made for somebody else")
            agreed = await self.consent.agreed_to(self._user(request.u))
            has_consented = agreed == version
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
    async def agree(self, request: AgreeRequest) -> Response:
        """Note that the user agrees."""
        given = parse_qs(request.form.decode("utf-8", "replace"))
        localpart, proof, version = (given.get(name, [""])[0] for name in ("u", "h", "v"))
        self._current()
        if "\0" in localpart or not self.consent.rule.is_proof(localpart, proof):
            return self._refused("This link was made for somebody else")
        if not _VERSION.fullmatch(version):
            return self._refused("There are no such terms")
        if not await self.consent.agree(self._user(localpart), version):
            return self._refused("There is no such user")
        own = f"{LANGUAGE}/success.html"
        if self.terms.has(own):
            return html_response(self.terms.render(own))
        return html_response(self.pages.render("consent_success.html"))

    def _user(self, localpart: str) -> UserID:
        return UserID(f"@{localpart}:{self.server_name}")

    def _current(self) -> str:
        version = self.consent.rule.version
        if version is None:
            raise NotFound("This server has no terms of use")
        return version

    def _refused(self, reason: str) -> Response:
        return html_response(self.pages.render("consent_refused.html", reason=reason), 400)
