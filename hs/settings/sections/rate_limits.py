"""Settings of rate limits, the `rc_*` keys."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.settings.fields import setting, sub_block
from hs.settings.kinds import COUNT, NUMBER, ConfigLocation, Kind, integer


@attrs.frozen
class Rate:
    """A token bucket: `burst_count` actions at once, refilled by `per_second`."""

    per_second: float
    burst_count: int


def rate_kind(default: Rate) -> Kind[Rate]:
    """Return the kind of a rate, of which either part may be left out."""

    def read(value: Any, at: ConfigLocation) -> Rate:
        parts: Mapping[str, Any] = {} if value is None else value
        if not isinstance(parts, dict) or set(parts) - {"per_second", "burst_count"}:
            at.reject(
                "expected a map with per_second and burst_count",
                "write `{per_second: 1, burst_count: 10}`",
            )
        per_second = NUMBER.read(parts.get("per_second", default.per_second), at)
        burst = NUMBER.read(parts.get("burst_count", default.burst_count), at)
        if per_second < 0 or burst < 0:
            at.reject("a rate must not be negative", "write numbers of 0 or more")
        return Rate(per_second, int(burst))

    number = {"type": "number", "minimum": 0}
    schema = {
        "type": ["object", "null"],
        "properties": {"per_second": number, "burst_count": number},
        "additionalProperties": False,
    }
    return Kind("rate", read, schema)


def rate(per_second: float, burst_count: int, doc: str, *, is_effective: bool = True) -> Rate:
    """Declare a rate limit with its default."""
    default = Rate(per_second, burst_count)
    shown = {"per_second": per_second, "burst_count": burst_count}
    return setting(rate_kind(default), default, doc, shown=shown, is_effective=is_effective)


@attrs.frozen(kw_only=True)
class LoginRates:
    """Limits on log-ins."""

    address: Rate = rate(0.003, 5, "Log-ins per client IP address.")
    account: Rate = rate(0.003, 5, "Log-ins per account.")
    failed_attempts: Rate = rate(0.17, 3, "Failed log-ins per account.")


@attrs.frozen(kw_only=True)
class JoinRates:
    """Limits on joining rooms."""

    local: Rate = rate(0.1, 10, "Joins of rooms that this server is in, per user.")
    remote: Rate = rate(0.01, 10, "Joins through other servers, per user.")


@attrs.frozen(kw_only=True)
class InviteRates:
    """Limits on invites."""

    per_room: Rate = rate(0.3, 10, "Invites per room.")
    per_user: Rate = rate(0.003, 5, "Invites per invited user.")
    per_issuer: Rate = rate(0.3, 10, "Invites per inviting user.")


@attrs.frozen(kw_only=True)
class PresenceRates:
    """Limits on changes of presence."""

    per_user: Rate = rate(0.1, 1, "Changes of presence per user.")


@attrs.frozen(kw_only=True)
class FederationRates:
    """Limits on the requests of each remote server."""

    window_size: int = setting(
        COUNT, 1000, "Window in which requests are counted, in milliseconds."
    )
    sleep_limit: int = setting(
        COUNT, 10, "Number of requests in a window after which requests are delayed."
    )
    sleep_delay: int = setting(COUNT, 500, "Delay in milliseconds.")
    reject_limit: int = setting(
        COUNT, 50, "Number of delayed requests after which requests are rejected."
    )
    concurrent: int = setting(integer(minimum=1), 3, "Number of requests processed concurrently.")


@attrs.frozen(kw_only=True)
class RateLimitSettings:
    """All rate limits; the field names are the keys."""

    rc_message: Rate = rate(0.2, 10, "Sent events, per user.")
    rc_registration: Rate = rate(0.17, 3, "Registrations, per client IP address.")
    rc_registration_token_validity: Rate = rate(
        0.1, 5, "Validity checks of registration tokens, per client IP address."
    )
    rc_login: LoginRates = sub_block(LoginRates, "Log-ins.")
    rc_admin_redaction: Rate | None = setting(
        Kind(
            "rate or null",
            lambda value, at: None if value is None else rate_kind(Rate(1, 10)).read(value, at),
            {"type": ["object", "null"]},
        ),
        None,
        "Redactions by administrators; `rc_message` if missing.",
        is_effective=False,
    )
    rc_joins: JoinRates = sub_block(JoinRates, "Joins.")
    rc_joins_per_room: Rate = rate(1, 10, "Joins per room, over all users.")
    rc_3pid_validation: Rate = rate(
        0.003, 5, "Requests for validation messages, per address and per client IP address."
    )
    rc_invites: InviteRates = sub_block(InviteRates, "Invites.")
    rc_third_party_invite: Rate = rate(0.2, 10, "Invites by third-party identifier, per user.")
    rc_media_create: Rate = rate(10, 50, "Reserved media IDs, per user.")
    rc_federation: FederationRates = sub_block(FederationRates, "Requests of remote servers.")
    rc_presence: PresenceRates = sub_block(PresenceRates, "Changes of presence.")
    rc_delayed_event_mgmt: Rate = rate(1, 5, "Requests that manage delayed events, per user.")
    rc_reports: Rate = rate(1, 5, "Reports, per user.")
    rc_room_creation: Rate = rate(0.016, 10, "Room creations, per user.")
    rc_user_directory: Rate = rate(0.016, 200, "Searches in the user directory, per user.")
    rc_key_requests: Rate = rate(
        20, 100, "Queries for encryption keys, per device.", is_effective=False
    )
