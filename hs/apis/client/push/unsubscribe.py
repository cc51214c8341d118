"""Unsubscribing from e-mail notifications."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, html_response
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.lib.mail.templates import Templates
from hs.services.push.pushers.unsubscribe_links import PATH, UnsubscribeLinks


@attrs.frozen
class UnsubscribeRequest:
    """GET of the link in an e-mail, or POST by a mail program (RFC 8058)."""

    user_id: UserID = query()
    app_id: str = query()
    pushkey: str = query()
    link_token: str = query(name="token")


@attrs.frozen
class UnsubscribeApi:
    """The page behind the unsubscribe link."""

    unsubscribing: UnsubscribeLinks
    pages: Templates

    @route("GET", PATH, auth=NONE)
    @route("POST", PATH, auth=NONE)
    async def unsubscribe(self, request: UnsubscribeRequest) -> Response:
        """Delete the pusher in the link."""
        await self.unsubscribing.delete_pusher(
            request.user_id, request.app_id, request.pushkey, request.link_token
        )
        return html_response(self.pages.render("unsubscribed.html"))
