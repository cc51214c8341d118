"""The link in e-mails that ends them: it proves itself, so that nobody has to log in for it."""

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
class Unsubscribing:
    """Makes such links, and does what they ask for; `secret` is the same in every process."""

    _writer: PusherWriter
    _base_url: str
    _secret: bytes = attrs.field(repr=False)

    def link(self, user_id: UserID, app_id: str, pushkey: str) -> str:
        """Give the link that ends one pusher."""
        token = self._token(user_id, app_id, pushkey)
        query = {"user_id": user_id, "app_id": app_id, "pushkey": pushkey, "token": token}
        return f"{self._base_url.rstrip('/')}{PATH}?{urlencode(query)}"

    async def end(self, user_id: UserID, app_id: str, pushkey: str, token: str) -> None:
        """Delete the pusher that a link names; twice is fine. Raises: Forbidden."""
        if not hmac.compare_digest(token.encode(), self._token(user_id, app_id, pushkey).encode()):
            raise Forbidden("This link is not whole")
        await self._writer.delete(user_id, app_id, pushkey)

    def _token(self, user_id: UserID, app_id: str, pushkey: str) -> str:
        named = "\0".join((user_id, app_id, pushkey)).encode()
        return hmac.new(self._secret, named, hashlib.sha256).hexdigest()
