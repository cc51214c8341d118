"""Settings of users' third-party identifiers: e-mail addresses and phone numbers."""

import re
from typing import Any

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    STRING,
    ConfigLocation,
    Kind,
    choice,
    list_of,
    one_or_more,
    optional,
)


def _read_pattern(value: Any, at: ConfigLocation) -> str:
    text = STRING.read(value, at)
    try:
        re.compile(text)
    except re.error as error:
        at.reject(f"{text!r} is not a regular expression: {error}", "correct the expression")
    return text


PATTERN = Kind("regular expression", _read_pattern, {"type": "string"})


@attrs.frozen(kw_only=True)
class AllowedThreepids:
    """A pattern of identifiers that may be used on this server."""

    medium: str = setting(choice("email", "msisdn"), "email", "Kind of identifier.")
    pattern: str = setting(
        PATTERN, "", "Regular expression that must match at the beginning of the identifier."
    )


_ALLOWED = block(AllowedThreepids, is_rule=True)


def _read_allowed(value: Any, at: ConfigLocation) -> AllowedThreepids:
    allowed = _ALLOWED.read(value, at)
    # Without a pattern, every identifier would be allowed.
    if "medium" not in value or not allowed.pattern:
        at.reject("needs medium and pattern", "write `{medium: email, pattern: '…'}`")
    return allowed


ALLOWED = list_of(Kind("allowed identifiers", _read_allowed, _ALLOWED.schema))


@attrs.frozen(kw_only=True)
class ThreepidSettings:
    """Third-party identifiers of users."""

    enable_registration_captcha: bool = setting(
        BOOLEAN, False, "Require a captcha for registration."
    )
    disable_msisdn_registration: bool = setting(
        BOOLEAN, False, "Do not offer registration with a phone number."
    )
    allowed_local_3pids: tuple[AllowedThreepids, ...] | None = setting(
        optional(ALLOWED),
        None,
        "Patterns of e-mail addresses and phone numbers allowed on this server; any if null.",
    )
    enable_3pid_changes: bool = setting(
        BOOLEAN, True, "Allow users to change their e-mail addresses and phone numbers."
    )
    request_token_inhibit_3pid_errors: bool = setting(
        BOOLEAN, False, "Do not reveal whether an address belongs to an account."
    )
    next_link_domain_whitelist: tuple[str, ...] | None = setting(
        optional(one_or_more(STRING)),
        None,
        "Domains to which users may be redirected after confirming an address; any if null.",
    )
