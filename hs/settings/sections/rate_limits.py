"""How often each action may be done: the rc_* keys."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.settings.fields import setting, sub_block
from hs.settings.kinds import COUNT, NUMBER, At, Kind, integer


@attrs.frozen
class Rate:
    """A token bucket: `burst_count` at once, refilled at `per_second`."""

    per_second: float
    burst_count: int


def rate_kind(default: Rate) -> Kind[Rate]:
    """The kind of a rate, of which either part may be left out."""

    def read(value: Any, at: At) -> Rate:
        given: Mapping[str, Any] = {} if value is None else value
        if not isinstance(given, dict) or set(given) - {"per_second", "burst_count"}:
            at.refuse(
                "expected per_second and burst_count", "write `{per_second: 1, burst_count: 10}`"
            )
        per_second = NUMBER.read(given.get("per_second", default.per_second), at)
        burst = NUMBER.read(given.get("burst_count", default.burst_count), at)
        if per_second < 0 or burst < 0:
            at.refuse("a rate cannot be negative", "write numbers of 0 or more")
        return Rate(per_second, int(burst))

    number = {"type": "number", "minimum": 0}
    schema = {
        "type": ["object", "null"],
        "properties": {"per_second": number, "burst_count": number},
        "additionalProperties": False,
    }
    return Kind("rate", read, schema)


def rate(per_second: float, burst_count: int, doc: str, *, is_effective: bool = True) -> Rate:
    """Declare a rate with its default."""
    default = Rate(per_second, burst_count)
    shown = {"per_second": per_second, "burst_count": burst_count}
    return setting(rate_kind(default), default, doc, shown=shown, is_effective=is_effective)


@attrs.frozen(kw_only=True)
class LoginRates:
    """Limits on logging in."""

    address: Rate = rate(0.003, 5, "Per client address.")
    account: Rate = rate(0.003, 5, "Per account.")
    failed_attempts: Rate = rate(0.17, 3, "Failures per account.")


@attrs.frozen(kw_only=True)
class JoinRates:
    """Limits on joining rooms."""

    local: Rate = rate(0.1, 10, "Rooms this server is in, per user.")
    remote: Rate = rate(0.01, 10, "Rooms it must join over federation, per user.")


@attrs.frozen(kw_only=True)
class InviteRates:
    """Limits on invites."""

    per_room: Rate = rate(0.3, 10, "Per room.")
    per_user: Rate = rate(0.003, 5, "Per invited user.")
    per_issuer: Rate = rate(0.3, 10, "Per inviting user.")


@attrs.frozen(kw_only=True)
class PresenceRates:
    """Limits on presence."""

    per_user: Rate = rate(0.1, 1, "Per user.")


@attrs.frozen(kw_only=True)
class FederationRates:
    """Limits on each server that sends to us."""

    window_size: int = setting(COUNT, 1000, "Milliseconds over which requests are counted.")
    sleep_limit: int = setting(COUNT, 10, "Requests in a window before delays begin.")
    sleep_delay: int = setting(COUNT, 500, "Milliseconds of delay.")
    reject_limit: int = setting(COUNT, 50, "Delayed requests before refusing.")
    concurrent: int = setting(integer(least=1), 3, "Requests worked on at once.")


@attrs.frozen(kw_only=True)
class RateLimitSettings:
    """Every limit; field names are the keys."""

    rc_message: Rate = rate(0.2, 10, "Sending events, per user.")
    rc_registration: Rate = rate(0.17, 3, "Registering, per client address.")
    rc_registration_token_validity: Rate = rate(0.1, 5, "Asking whether a token is valid.")
    rc_login: LoginRates = sub_block(LoginRates, "Logging in.")
    rc_admin_redaction: Rate | None = setting(
        Kind(
            "rate or null",
            lambda value, at: None if value is None else rate_kind(Rate(1, 10)).read(value, at),
            {"type": ["object", "null"]},
        ),
        None,
        "Redactions by administrators; as `rc_message` when missing.",
        is_effective=False,
    )
    rc_joins: JoinRates = sub_block(JoinRates, "Joining rooms.")
    rc_joins_per_room: Rate = rate(1, 10, "Joins of one room, over all users.")
    rc_3pid_validation: Rate = rate(0.003, 5, "Asking for a validation message.")
    rc_invites: InviteRates = sub_block(InviteRates, "Inviting.")
    rc_third_party_invite: Rate = rate(0.2, 10, "Inviting by e-mail address, per user.")
    rc_media_create: Rate = rate(10, 50, "Announcing media, per user.")
    rc_federation: FederationRates = sub_block(
        FederationRates, "Requests of another server.", is_effective=False
    )
    rc_presence: PresenceRates = sub_block(PresenceRates, "Setting presence.")
    rc_delayed_event_mgmt: Rate = rate(1, 5, "Managing delayed events, per user.")
    rc_reports: Rate = rate(1, 5, "Reporting, per user.")
    rc_room_creation: Rate = rate(0.016, 10, "Creating rooms, per user.")
    rc_user_directory: Rate = rate(0.016, 200, "Searching the user directory, per user.")
    rc_key_requests: Rate = rate(
        20, 100, "Asking for encryption keys, per device.", is_effective=False
    )
