"""Settings about further ways to log in: from another session, or with a JSON web token."""

import attrs

from hs.settings.fields import secret, setting
from hs.settings.kinds import BOOLEAN, DURATION, STRING, STRINGS, optional


@attrs.frozen(kw_only=True)
class ExistingSessionSettings:
    """Logging another device in from one that is logged in."""

    enabled: bool = setting(BOOLEAN, False, "Give out tokens for another device.")
    require_ui_auth: bool = setting(BOOLEAN, True, "Ask who it is before.")
    token_timeout: int = setting(DURATION, 300_000, "How long such a token works.", shown="5m")


@attrs.frozen(kw_only=True)
class JwtSettings:
    """Logging in with a JSON web token of another service."""

    enabled: bool = setting(
        BOOLEAN, False, "Allow the log-in type `org.matrix.login.jwt`; needs `hs[jwt]`."
    )
    secret: str | None = secret("What tokens are signed with, or the public key.")
    algorithm: str | None = setting(
        optional(STRING), None, "How they are signed, such as HS256, RS256 or ES256."
    )
    subject_claim: str = setting(STRING, "sub", "The claim that names the user.")
    display_name_claim: str | None = setting(
        optional(STRING), None, "The claim that gives a new user's display name."
    )
    issuer: str | None = setting(optional(STRING), None, "The only issuer that is accepted.")
    audiences: tuple[str, ...] = setting(
        STRINGS, (), "Who a token may be meant for; then each must say.", shown=None
    )
