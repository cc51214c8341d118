"""Settings of accounts: registration, passwords and password policy, lifetimes of sessions."""

from typing import Any

import attrs

from hs.settings.fields import secret, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    SECRET,
    STRINGS,
    ConfigLocation,
    Kind,
    choice,
    integer,
    or_infinity,
)

ONLY_FOR_REAUTH = "only_for_reauth"
# Synapse reads this one key also from such strings, which scripts write for it.
_SWITCHES = {
    **dict.fromkeys(("y", "yes", "t", "true", "on", "1"), True),
    **dict.fromkeys(("n", "no", "f", "false", "off", "0"), False),
}


def _read_switch(value: Any, at: ConfigLocation) -> bool:
    return BOOLEAN.read(_SWITCHES.get(str(value).lower(), value), at)


SWITCH = Kind("boolean", _read_switch, BOOLEAN.schema)


@attrs.frozen(kw_only=True)
class RegistrationSettings:
    """Who may register, and what verification is required."""

    enable_registration: bool = setting(SWITCH, False, "Allow registration.")
    enable_registration_without_verification: bool = setting(
        BOOLEAN,
        False,
        "Allow registration without token, e-mail address or captcha. Spammers will abuse it.",
    )
    registration_requires_token: bool = setting(
        BOOLEAN, False, "Require a registration token, which an administrator creates."
    )
    registration_shared_secret: str | None = secret(
        "Anyone who knows it may create accounts, including administrators; `hs register-user` "
        "uses it. If the file named by `registration_shared_secret_path` is missing, `hs serve` "
        "creates it.",
        is_created=True,
    )
    bcrypt_rounds: int = setting(
        integer(4, 31), 12, "Cost of hashing a password; each step doubles the time."
    )
    registrations_require_3pid: tuple[str, ...] = setting(
        STRINGS, (), "Identifiers that new users must confirm: `email`, `msisdn`.", shown=[]
    )
    inhibit_user_in_use_error: bool = setting(
        BOOLEAN, False, "Do not reveal before registration whether a user name is taken."
    )
    allow_underscore_prefixed_registration: bool = setting(
        BOOLEAN, False, "Allow user names that begin with an underscore."
    )
    enable_set_displayname: bool = setting(
        BOOLEAN, True, "Allow users to change their display name."
    )
    enable_set_avatar_url: bool = setting(BOOLEAN, True, "Allow users to change their avatar.")


@attrs.frozen(kw_only=True)
class SessionSettings:
    """Lifetimes of sessions and tokens, in milliseconds; None means no limit."""

    session_lifetime: int | None = setting(
        or_infinity(DURATION), None, "Time after which a user must log in again.", shown="infinity"
    )
    refreshable_access_token_lifetime: int | None = setting(
        or_infinity(DURATION),
        300_000,
        "Lifetime of access tokens that can be refreshed.",
        shown="5m",
    )
    refresh_token_lifetime: int | None = setting(
        or_infinity(DURATION),
        None,
        "Lifetime of refresh tokens that are not used.",
        shown="infinity",
    )
    nonrefreshable_access_token_lifetime: int | None = setting(
        or_infinity(DURATION),
        None,
        "Lifetime of access tokens that cannot be refreshed.",
        shown="infinity",
    )


@attrs.frozen(kw_only=True)
class PasswordPolicy:
    """The requirements on new passwords."""

    enabled: bool = setting(BOOLEAN, False, "Check new passwords against this policy.")
    minimum_length: int = setting(COUNT, 0, "Minimum number of characters.")
    require_digit: bool = setting(BOOLEAN, False, "Require a digit.")
    require_symbol: bool = setting(
        BOOLEAN, False, "Require a character that is neither letter nor digit."
    )
    require_lowercase: bool = setting(BOOLEAN, False, "Require a lower-case letter.")
    require_uppercase: bool = setting(BOOLEAN, False, "Require an upper-case letter.")


def _read_enabled(value: Any, at: ConfigLocation) -> bool | str:
    if isinstance(value, bool) or value == ONLY_FOR_REAUTH:
        return value  # type: ignore[no-any-return]  # narrowed to bool or that one string
    at.reject(f"{value!r} is not allowed", f"write true, false or {ONLY_FOR_REAUTH}")


ENABLED = Kind(
    "boolean or only_for_reauth", _read_enabled, {"enum": [True, False, ONLY_FOR_REAUTH]}
)


@attrs.frozen(kw_only=True)
class PasswordSettings:
    """Log-in with a password; `enabled` may also be "only_for_reauth"."""

    enabled: bool | str = setting(
        ENABLED,
        True,
        "Allow log-in with a password; `only_for_reauth` allows it for re-authentication only.",
    )
    localdb_enabled: bool = setting(
        BOOLEAN, True, "Check passwords against this server's database."
    )
    pepper: str = setting(
        Kind(
            "string or null",
            lambda value, at: "" if value is None else SECRET.read(value, at),
            {"type": ["string", "null"]},
        ),
        "",
        "Secret added to every password before hashing. Changing it invalidates all passwords.",
        shown=None,
        is_secret=True,
    )
    scheme: str = setting(
        choice("bcrypt", "argon2id"),
        "bcrypt",
        "Hash of new passwords; old hashes are replaced when users log in. "
        "Synapse understands bcrypt only.",
    )
    policy: PasswordPolicy = sub_block(PasswordPolicy, "Requirements on new passwords.")


@attrs.frozen(kw_only=True)
class ReauthSettings:
    """How long user-interactive authentication counts for further requests, in milliseconds."""

    session_timeout: int = setting(
        DURATION,
        0,
        "Time for which one authentication counts for further sensitive requests; 0 for none.",
    )


def _read_reauth(value: Any, at: ConfigLocation) -> ReauthSettings:
    if isinstance(value, dict):
        for name in value:
            if name != "session_timeout":
                at.child(str(name)).warn("unknown key, ignored", is_unknown_key=True)
        value = value.get("session_timeout", 0)
    return ReauthSettings(session_timeout=DURATION.read(0 if value is None else value, at))


REAUTH = Kind("object", _read_reauth, {"type": ["object", "integer", "string", "null"]})
