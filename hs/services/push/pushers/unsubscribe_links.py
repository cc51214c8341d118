"""Unsubscribe links in e-mails, signed so that users need not log in to use them."""

import hashlib
import hmac
from typing import Final
from urllib.parse import urlencode

import attrs

from hs.core.errors import Forbidden
from hs.core.ids import UserID
from hs.services.push.pushers.pusher_table import PusherWriter

PATH: Final = "/_synapse/client/unsubscribe"


@attrs.frozen(eq=False)
class UnsubscribeLinks:
    """Makes and checks unsubscribe links; `secret` is the same in all processes."""

    _writer: PusherWriter
    _base_url: str
    _secret: bytes = attrs.field(repr=False)

    def link(self, user_id: UserID, app_id: str, pushkey: str) -> str:
        """Return the link that deletes a pusher."""
        token = self._token(user_id, app_id, pushkey)
        query = {"user_id": user_id, "app_id": app_id, "pushkey": pushkey, "token": token}
        return f"{self._base_url.rstrip('/')}{PATH}?{urlencode(query)}"

    async def delete_pusher(self, user_id: UserID, app_id: str, pushkey: str, token: str) -> None:
        """Delete the pusher of a link, if it exists. Raises: Forbidden if the token is invalid."""
        if not hmac.compare_digest(token.encode(), self._token(user_id, app_id, pushkey).encode()):
            raise Forbidden("The link is incomplete or invalid")
        await self._writer.delete(user_id, app_id, pushkey)

    def _token(self, user_id: UserID, app_id: str, pushkey: str) -> str:
        signed = "\0".join((user_id, app_id, pushkey)).encode()
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()
