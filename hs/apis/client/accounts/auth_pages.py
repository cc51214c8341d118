"""Fallback pages for authentication stages that a client does not support.

Spec: client-server API, User-Interactive Authentication, Fallback.
"""

import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response
from hs.apis.web.request import path, query, raw_body, remote_address
from hs.apis.web.route import route
from hs.core.errors import MatrixError, MissingParam, NotFound
from hs.lib.mail.templates import Templates
from hs.services.accounts.registration.registration_requirements import RegistrationRequirements
from hs.services.accounts.sessions.interactive_auth import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    InteractiveAuth,
)
from hs.services.accounts.threepids.validation_stages import RECAPTCHA, TERMS

PATH: Final = "/_matrix/client/v3/auth/{stage}/fallback/web"
_TEMPLATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        DUMMY: "auth_dummy.html",
        PASSWORD: "auth_password.html",
        RECAPTCHA: "recaptcha.html",
        TERMS: "terms.html",
        REGISTRATION_TOKEN: "registration_token.html",
        "org.matrix.msc3231.login.registration_token": "registration_token.html",
    }
)
# reCAPTCHA loads scripts, frames and images from these hosts.
_RECAPTCHA_HOSTS = "https://www.recaptcha.net https://www.gstatic.com https://www.gstatic.cn"


@attrs.frozen
class ShowAuthPageRequest:
    """GET /auth/{authType}/fallback/web."""

    stage: str = path()
    session: str = query()


@attrs.frozen
class SubmitAuthPageRequest:
    """POST /auth/{authType}/fallback/web: the submitted form."""

    stage: str = path()
    session: str = query(default="")
    form: bytes = raw_body()
    client_ip: str = remote_address()


@attrs.frozen
class AuthPagesApi:
    """The fallback pages."""

    interactive: InteractiveAuth
    requirements: RegistrationRequirements
    pages: Templates
    base_url: str

    @route("GET", PATH, auth=NONE)
    async def show_auth_page(self, request: ShowAuthPageRequest) -> Response:
        """Spec: client-server API, User-Interactive Authentication, Fallback."""
        return self._page(request.stage, request.session, None)

    @route("POST", PATH, auth=NONE, rate="uia_without_token")
    async def submit_auth_page(self, request: SubmitAuthPageRequest) -> Response:
        """Spec: client-server API, User-Interactive Authentication, Fallback."""
        form = parse_qs(request.form.decode("utf-8", "replace"))
        session = form.get("session", [request.session])[0]
        if not session:
            raise MissingParam("Missing session")
        if request.stage not in _TEMPLATES:
            raise NotFound("There is no fallback page for this authentication type")
        auth = {"type": request.stage, "session": session}
        for field, name in (("token", "token"), ("g-recaptcha-response", "response")):
            if field in form:
                auth[name] = form[field][0].strip()
        if "password" in form:
            auth["password"] = form["password"][0]
        try:
            await self.interactive.complete_on_page(request.stage, auth, request.client_ip)
        except MatrixError as error:
            return self._page(request.stage, session, error)
        nonce = secrets.token_urlsafe(16)
        page = self.pages.render("auth_success.html", nonce=nonce)
        return with_policy(html_response(page), f"script-src 'nonce-{nonce}'")

    def _page(self, stage: str, session: str, error: MatrixError | None) -> Response:
        name = _TEMPLATES.get(stage)
        if name is None:
            raise NotFound("There is no fallback page for this authentication type")
        values: dict[str, object] = {
            "session": session,
            "myurl": self.base_url.rstrip("/") + PATH.format(stage=stage),
            "error": None if error is None else error.message,
        }
        if stage == RECAPTCHA:
            values["sitekey"] = self.requirements.captcha_key or ""
        if stage == TERMS:
            consent = self.requirements.consent
            values |= {"terms_url": consent.url, "policy_name": consent.policy_name}
        page = html_response(self.pages.render(name, **values), _status_of(error))
        if stage == RECAPTCHA:
            hosts = f"{_RECAPTCHA_HOSTS} 'unsafe-inline'"
            return with_policy(
                page,
                f"script-src {hosts}; frame-src {hosts}; img-src {hosts}; connect-src {hosts}",
            )
        return page


def _status_of(error: MatrixError | None) -> int:
    """Return the status of a page that shows this error."""
    if error is None:
        return 200
    return 429 if error.status == 429 else 401


def with_policy(page: Response, directives: str) -> Response:
    """Return the page with further directives in its Content-Security-Policy."""
    headers = dict(page.headers)
    headers["content-security-policy"] += f"; {directives}"
    return attrs.evolve(page, headers=headers)
