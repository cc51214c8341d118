"""Interactive registration: several requests of one UIA session, the last possibly repeated.

The session stores the parameters of the first request (the password as a hash), so that later
requests need only complete stages. Every hash is counted before it is computed. If the last request
is repeated after the account was created, because its response was lost, it logs the user in again.

Spec: client-server API, Account registration, User-Interactive Authentication API.
"""

from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import MissingParam, Unknown, UserInUse
from hs.core.ids import UserID
from hs.services.accounts.limits.rate_limits import RequestRateLimits
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.sessions.sessions import RequestedDevice, Session

OPERATION: Final = "register"


@attrs.frozen(kw_only=True)
class RegistrationRequest:
    """The parameters of a registration request; None means absent.

    The field names are the keys of the JSON that the UIA session stores.
    """

    username: str | None = None
    password: str | None = None
    password_hash: str | None = None
    guest: UserID | None = None
    device_id: str | None = None
    device_name: str | None = None
    inhibit_login: bool | None = None
    wants_refresh: bool | None = None

    @property
    def device(self) -> RequestedDevice | None:
        """The device to log in; None if the client asked for no session."""
        if self.inhibit_login:
            return None
        return RequestedDevice(
            device_id=self.device_id or None,
            display_name=self.device_name,
            wants_refresh=bool(self.wants_refresh),
        )

    def merged_with(self, earlier: JsonObject) -> "RegistrationRequest":
        """Return these parameters, with absent ones taken from the session's first request."""
        missing: dict[str, Any] = {
            key: value for key, value in earlier.items() if getattr(self, key) is None
        }
        if self.password is not None:
            missing.pop("password_hash", None)
        return attrs.evolve(self, **missing)


@attrs.frozen(kw_only=True)
class RegistrationLimits:
    """The limits on the registrations of one client IP address."""

    rates: RequestRateLimits
    client_ip: str

    def count_hash(self) -> None:
        """Count a password that is hashed to begin a session. Raises: LimitExceeded."""
        self.rates.check("registration_hash", None, self.client_ip)

    def count_account(self) -> None:
        """Count an account, or the repetition of its last request. Raises: LimitExceeded."""
        self.rates.check("registration", None, self.client_ip)


async def register(
    registration: Registration,
    interactive: InteractiveAuth,
    request: RegistrationRequest,
    auth: JsonObject | None,
    limits: RegistrationLimits,
) -> tuple[UserID, Session | None]:
    """Create an account once a flow is complete.

    Raises: AuthenticationNeeded, Forbidden, InvalidUsername, UserInUse, MissingParam, ….
    """
    registration.requirements.check_is_enabled()
    if request.device is not None:
        request.device.check()
    existing = await interactive.outcome(OPERATION, auth)
    if existing is None:
        try:
            return await _create(registration, interactive, request, auth, limits)
        except (UserInUse, Unknown):
            # Another request of the same session may have created the account meanwhile.
            existing = await interactive.outcome(OPERATION, auth)
            if existing is None:
                raise
    user_id = UserID(existing)
    limits.count_account()
    return user_id, await registration.log_in_again(user_id, request.password, request.device)


async def _create(
    registration: Registration,
    interactive: InteractiveAuth,
    request: RegistrationRequest,
    auth: JsonObject | None,
    limits: RegistrationLimits,
) -> tuple[UserID, Session | None]:
    requirements = registration.requirements
    await _user_id(registration, request)

    async def session_data() -> JsonObject:
        if request.password is not None:
            limits.count_hash()
        return await _storable(registration, request)

    proof = await interactive.prove(
        OPERATION,
        auth,
        requirements.flows(),
        params=requirements.params(),
        remembering=session_data,
        client_ip=limits.client_ip,
    )
    request = request.merged_with(proof.remembered)
    if request.password is None and request.password_hash is None:
        raise MissingParam("Missing password")
    limits.count_account()
    account = NewAccount(
        user_id=await _user_id(registration, request) or registration.random_user_id(),
        password=request.password,
        password_hash=request.password_hash,
        was_guest=request.guest is not None,
        device=request.device,
        proof=proof,
    )
    return account.user_id, await registration.register(account)


async def _user_id(registration: Registration, request: RegistrationRequest) -> UserID | None:
    if request.guest is not None:
        return request.guest
    return None if request.username is None else await registration.check_name(request.username)


async def _storable(registration: Registration, request: RegistrationRequest) -> JsonObject:
    if request.password is not None:
        password_hash = await registration.hash_new_password(request.password)
        request = attrs.evolve(request, password=None, password_hash=password_hash)
    return {key: value for key, value in attrs.asdict(request).items() if value is not None}
