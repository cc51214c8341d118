"""The authenticated sender of a request: a user, through a device or application service."""

import attrs

from hs.core.ids import UserID


@attrs.frozen
class RequiredConsent:
    """The terms of service that a user must agree to first, and the page to do so at."""

    uri: str
    message: str


@attrs.frozen
class Requester:
    """The authenticated user behind a request.

    `token_id` is the row of the access token; it and `device_id` are None for an application
    service that acts without a device. The requests of shadow-banned users appear to succeed but
    have no effect. A consent that is due keeps the user from acting.
    """

    user_id: UserID
    device_id: str | None = None
    token_id: int | None = None
    is_guest: bool = False
    is_admin: bool = False
    is_shadow_banned: bool = False
    appservice_id: str | None = None
    locked: bool = False
    suspended: bool = False
    is_rate_limit_exempt: bool = False
    required_consent: RequiredConsent | None = None
