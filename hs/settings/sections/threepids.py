"""Settings about users' e-mail addresses and telephone numbers."""

import re
from typing import Any

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import BOOLEAN, STRING, At, Kind, choice, list_of, one_or_more, optional


def _read_pattern(value: Any, at: At) -> str:
    text = STRING.read(value, at)
    try:
        re.compile(text)
    except re.error as error:
        at.refuse(f"{text!r} is not a regular expression: {error}", "correct it")
    return text


PATTERN = Kind("regular expression", _read_pattern, {"type": "string"})


@attrs.frozen(kw_only=True)
class AllowedThreepids:
    """One pattern of addresses that may be used here."""

    medium: str = setting(choice("email", "msisdn"), "email", "Kind of address.")
    pattern: str = setting(PATTERN, "", "What it must begin with, as a regular expression.")


@attrs.frozen(kw_only=True)
class ThreepidSettings:
    """E-mail addresses and telephone numbers of users."""

    enable_registration_captcha: bool = setting(BOOLEAN, False, "Ask new users to solve a captcha.")
    disable_msisdn_registration: bool = setting(
        BOOLEAN, False, "Do not offer to register with a telephone number."
    )
    allowed_local_3pids: tuple[AllowedThreepids, ...] | None = setting(
        optional(list_of(block(AllowedThreepids))),
        None,
        "Patterns of addresses that may be used on this server; any when null.",
    )
    enable_3pid_changes: bool = setting(BOOLEAN, True, "Users may change their addresses.")
    request_token_inhibit_3pid_errors: bool = setting(
        BOOLEAN, False, "Do not tell whether an address belongs to an account."
    )
    next_link_domain_whitelist: tuple[str, ...] | None = setting(
        optional(one_or_more(STRING)),
        None,
        "Domains to which a confirmed address may lead on; any when null.",
    )
