"""The page for login with clients that support none of the login types.

Spec: client-server API, Login Fallback.
"""

import secrets
from typing import Final

import attrs

from hs.apis.client.accounts.auth_pages import with_policy
from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response
from hs.apis.web.route import route
from hs.core.ids import ServerName
from hs.lib.mail.templates import Templates

PATH: Final = "/_matrix/static/client/login"


@attrs.frozen
class LoginPageApi:
    """The login fallback page."""

    pages: Templates
    server_name: ServerName

    @route("GET", PATH, auth=NONE)
    async def show_login_page(self) -> Response:
        """Spec: client-server API, Login Fallback."""
        nonce = secrets.token_urlsafe(16)
        page = self.pages.render("login.html", nonce=nonce, server_name=self.server_name)
        return with_policy(html_response(page), f"script-src 'nonce-{nonce}'; connect-src 'self'")
