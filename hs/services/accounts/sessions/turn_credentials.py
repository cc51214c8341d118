"""Credentials for TURN servers.

Spec: client-server API, Voice over IP.
"""

import base64
import hashlib
import hmac

import attrs

from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.settings.sections.features import TurnSettings


@attrs.frozen
class TurnCredentials:
    """Credentials for the TURN servers; `ttl` in seconds."""

    username: str
    password: str
    ttl: int
    uris: tuple[str, ...]


@attrs.define(eq=False)
class TurnServers:
    """The configured TURN servers."""

    _settings: TurnSettings
    _clock: Clock

    def credentials_for(self, requester: Requester) -> TurnCredentials | None:
        """Return temporary credentials; None if no servers are configured for the requester."""
        settings = self._settings
        if not settings.turn_uris or (requester.is_guest and not settings.turn_allow_guests):
            return None
        ttl = settings.turn_user_lifetime // 1000
        if settings.turn_shared_secret:
            username = f"{self._clock.now_ms() // 1000 + ttl}:{requester.user_id}"
            mac = hmac.digest(settings.turn_shared_secret.encode(), username.encode(), hashlib.sha1)
            password = base64.b64encode(mac).decode()
        elif settings.turn_username and settings.turn_password:
            username, password = settings.turn_username, settings.turn_password
        else:
            return None
        return TurnCredentials(username, password, ttl, settings.turn_uris)
