"""Who asks this server for something: a user, through a device or an application service."""

import attrs

from hs.core.ids import UserID


@attrs.frozen
class ConsentDue:
    """The terms of use that a user must agree to before they act, and where they can."""

    uri: str
    message: str


@attrs.frozen
class Requester:
    """The authenticated user behind a request.

    `token_id` is the row of the access token; it and `device_id` are None for application
    services that act without a device. `shadow` users are told that all went well. `unlimited`
    requesters may ask as often as they like. `consent_due` keeps users from acting.
    """

    user_id: UserID
    device_id: str | None = None
    token_id: int | None = None
    is_guest: bool = False
    is_admin: bool = False
    shadow: bool = False
    appservice_id: str | None = None
    locked: bool = False
    suspended: bool = False
    unlimited: bool = False
    consent_due: ConsentDue | None = None
