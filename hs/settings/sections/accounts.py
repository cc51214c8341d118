"""Settings about accounts: who may register, how passwords are kept, how long sessions last."""

from typing import Any

import attrs

from hs.settings.fields import secret, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    STRING,
    STRINGS,
    At,
    Kind,
    choice,
    endless,
    integer,
)

ONLY_FOR_REAUTH = "only_for_reauth"


@attrs.frozen(kw_only=True)
class RegistrationSettings:
    """Who may register and with which proofs."""

    enable_registration: bool = setting(BOOLEAN, False, "Let anybody register.")
    enable_registration_without_verification: bool = setting(
        BOOLEAN, False, "Accept that spammers register, since nothing is asked of them."
    )
    registration_requires_token: bool = setting(
        BOOLEAN, False, "Ask for a token that an administrator created."
    )
    registration_shared_secret: str | None = secret(
        "Whoever knows it may create accounts, administrators included."
    )
    bcrypt_rounds: int = setting(integer(4, 31), 12, "Cost of hashing a password; each doubles.")
    registrations_require_3pid: tuple[str, ...] = setting(
        STRINGS, (), "Kinds of address a new user must prove.", shown=[]
    )
    inhibit_user_in_use_error: bool = setting(
        BOOLEAN, False, "Do not tell whether a user name is taken."
    )
    allow_underscore_prefixed_registration: bool = setting(
        BOOLEAN, False, "Allow user names that begin with an underscore."
    )
    enable_set_displayname: bool = setting(BOOLEAN, True, "Users may set their display name.")
    enable_set_avatar_url: bool = setting(BOOLEAN, True, "Users may set their avatar.")


@attrs.frozen(kw_only=True)
class SessionSettings:
    """Lifetimes of access tokens, in milliseconds; None is for ever."""

    session_lifetime: int | None = setting(
        endless(DURATION), None, "After which a user must log in again.", shown="infinity"
    )
    refreshable_access_token_lifetime: int | None = setting(
        endless(DURATION), 300_000, "Of tokens that can be refreshed.", shown="5m"
    )
    refresh_token_lifetime: int | None = setting(
        endless(DURATION), None, "Of refresh tokens that are not used.", shown="infinity"
    )
    nonrefreshable_access_token_lifetime: int | None = setting(
        endless(DURATION), None, "Of tokens that cannot be refreshed.", shown="infinity"
    )


@attrs.frozen(kw_only=True)
class PasswordPolicy:
    """What a new password must contain."""

    enabled: bool = setting(BOOLEAN, False, "Check new passwords.")
    minimum_length: int = setting(COUNT, 0, "Least number of characters.")
    require_digit: bool = setting(BOOLEAN, False, "At least one digit.")
    require_symbol: bool = setting(BOOLEAN, False, "At least one symbol.")
    require_lowercase: bool = setting(BOOLEAN, False, "At least one lower-case letter.")
    require_uppercase: bool = setting(BOOLEAN, False, "At least one upper-case letter.")


def _read_enabled(value: Any, at: At) -> bool | str:
    if isinstance(value, bool) or value == ONLY_FOR_REAUTH:
        return value  # type: ignore[no-any-return]  # narrowed to bool or that one string
    at.refuse(f"{value!r} is not understood", f"write true, false or {ONLY_FOR_REAUTH}")


ENABLED = Kind(
    "boolean or only_for_reauth", _read_enabled, {"enum": [True, False, ONLY_FOR_REAUTH]}
)


@attrs.frozen(kw_only=True)
class PasswordSettings:
    """Logging in with a password; `enabled` may also be "only_for_reauth"."""

    enabled: bool | str = setting(ENABLED, True, "Allow passwords.")
    localdb_enabled: bool = setting(BOOLEAN, True, "Check them against our own database.")
    pepper: str = setting(
        Kind(
            "string or null",
            lambda value, at: "" if value is None else STRING.read(value, at),
            {"type": ["string", "null"]},
        ),
        "",
        "Added to every password before hashing; never change it.",
        shown=None,
    )
    scheme: str = setting(
        choice("bcrypt", "argon2id"),
        "bcrypt",
        "How new passwords are hashed; old ones follow as their owners log in. "
        "Only bcrypt is understood by Synapse.",
    )
    policy: PasswordPolicy = sub_block(PasswordPolicy, "What new passwords must contain.")


@attrs.frozen(kw_only=True)
class ReauthSettings:
    """How long a proof of identity serves for further dangerous actions, in milliseconds."""

    session_timeout: int = setting(DURATION, 0, "How long one proof counts.")


def _read_reauth(value: Any, at: At) -> ReauthSettings:
    if isinstance(value, dict):
        for name in value:
            if name != "session_timeout":
                at.child(str(name)).warn("unknown key, ignored", is_unknown_key=True)
        value = value.get("session_timeout", 0)
    return ReauthSettings(session_timeout=DURATION.read(0 if value is None else value, at))


REAUTH = Kind("object", _read_reauth, {"type": ["object", "integer", "string", "null"]})
