"""The link in e-mails that ends them."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.lib.mail.templates import Templates
from hs.services.push.pushers.unsubscribe_links import PATH, Unsubscribing


@attrs.frozen
class Unsubscribe:
    """Ask for no more e-mails; a mail program that does it for the user sends a POST."""

    user_id: UserID = query()
    app_id: str = query()
    pushkey: str = query()
    link_token: str = query(name="token")


@attrs.frozen
class UnsubscribeApi:
    """The page behind the link."""

    unsubscribing: Unsubscribing
    pages: Templates

    @route("GET", PATH, auth=NONE)
    @route("POST", PATH, auth=NONE)
    async def unsubscribe(self, request: Unsubscribe) -> Response:
        """End the pusher that the link names."""
        await self.unsubscribing.end(
            request.user_id, request.app_id, request.pushkey, request.link_token
        )
        return html_response(self.pages.render("unsubscribed.html"))
