"""The page that a browser shows at the address of the server."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response
from hs.apis.web.route import route
from hs.core.ids import ServerName
from hs.lib.mail.templates import Templates


@attrs.frozen
class HomePageApi:
    """The home page, for people who open the address of the server in a browser."""

    pages: Templates
    server_name: ServerName

    @route("GET", "/", auth=NONE)
    async def get_home_page(self) -> Response:
        """Return a page that says what this server is and how to use it."""
        return html_response(self.pages.render("home.html", server_name=self.server_name))
