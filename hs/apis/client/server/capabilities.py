"""Capabilities: what users may do on this server, and its room versions."""

from typing import Any

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.core.versions import ROOM_VERSIONS
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.login.login import Login
from hs.services.rooms.sending.delayed_events import MAX_SCHEDULED
from hs.settings.sections.accounts import RegistrationSettings


@attrs.frozen
class GetCapabilitiesRequest:
    """GET /capabilities."""

    requester: Requester


@attrs.frozen
class CapabilitiesApi:
    """The endpoint of capabilities; `longest_delay_ms` is None if delayed events are disabled."""

    lifecycle: AccountLifecycle
    login: Login
    registration: RegistrationSettings
    default_room_version: str
    may_change_threepids: bool
    forgets_left_rooms: bool = False
    longest_delay_ms: int | None = None

    @route("GET", "/_matrix/client/v3/capabilities", auth=USER_OR_GUEST)
    async def get_capabilities(self, request: GetCapabilitiesRequest) -> dict[str, Any]:
        """Spec: client-server API, Capabilities negotiation."""
        settings = self.registration
        disallowed = [
            field
            for field, may_change in (
                ("displayname", settings.enable_set_displayname),
                ("avatar_url", settings.enable_set_avatar_url),
            )
            if not may_change
        ]
        profile_fields: dict[str, Any] = {"enabled": True}
        if disallowed:
            profile_fields["disallowed"] = disallowed
        moderation: dict[str, Any] = {}
        if request.requester.is_admin:
            actions = {"suspend": True, "lock": True}
            moderation = {"m.account_moderation": actions, "uk.timedout.msc4323": actions}
        delayed_events: dict[str, Any] = {}
        if self.longest_delay_ms is not None:
            limits = {"max_delay_ms": self.longest_delay_ms, "max_scheduled": MAX_SCHEDULED}
            delayed_events = {
                "m.delayed_events": limits,
                "org.matrix.msc4140.delayed_events": limits,
            }
        return {
            "capabilities": {
                **delayed_events,
                **moderation,
                "m.room_versions": {
                    "default": self.default_room_version,
                    "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
                },
                "m.change_password": {"enabled": self.lifecycle.may_change_password},
                "m.set_displayname": {"enabled": settings.enable_set_displayname},
                "m.set_avatar_url": {"enabled": settings.enable_set_avatar_url},
                "m.3pid_changes": {"enabled": self.may_change_threepids},
                "m.forget_forced_upon_leave": {"enabled": self.forgets_left_rooms},
                "org.matrix.msc4267.forget_forced_upon_leave": {"enabled": self.forgets_left_rooms},
                "m.get_login_token": {"enabled": self.login.issues_tokens},
                "m.profile_fields": profile_fields,
                "uk.tcpip.msc4133.profile_fields": profile_fields,
            }
        }
