"""Settings of other ways to log in: from an existing session, and with a JSON web token."""

import attrs

from hs.settings.fields import secret, setting
from hs.settings.kinds import BOOLEAN, DURATION, STRING, STRINGS, optional


@attrs.frozen(kw_only=True)
class ExistingSessionSettings:
    """Log-in of another device from a logged-in one."""

    enabled: bool = setting(
        BOOLEAN,
        False,
        "Allow logged-in users to request a token with which another device logs in.",
    )
    require_ui_auth: bool = setting(
        BOOLEAN, True, "Require user-interactive authentication for such a token."
    )
    token_timeout: int = setting(DURATION, 300_000, "Lifetime of such a token.", shown="5m")


@attrs.frozen(kw_only=True)
class JwtSettings:
    """Log-in with a JSON web token that another service issued."""

    enabled: bool = setting(
        BOOLEAN, False, "Allow the log-in type `org.matrix.login.jwt`; needs `hs[jwt]`."
    )
    secret: str | None = secret("Shared secret or public key that verifies tokens.")
    algorithm: str | None = setting(
        optional(STRING), None, "Signature algorithm, such as HS256, RS256 or ES256."
    )
    subject_claim: str = setting(
        STRING, "sub", "Claim that contains the local part of the user ID."
    )
    display_name_claim: str | None = setting(
        optional(STRING), None, "Claim that contains the display name of a new user."
    )
    issuer: str | None = setting(optional(STRING), None, "Required issuer.")
    audiences: tuple[str, ...] = setting(
        STRINGS, (), "Accepted audiences; if set, each token must name one of them.", shown=None
    )
