"""Registering as people do it: in two requests or more, the last of which may come twice.

The first request is remembered (its password as a hash), so that the others need only prove. Once
the account is made, a repeated request logs its owner in again.

Spec: client-server API, Account registration, User-Interactive Authentication API.
"""

from collections.abc import Callable
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import MissingParam, Unknown, UserInUse
from hs.core.ids import UserID
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.sessions.sessions import DeviceWish, Session

OPERATION: Final = "register"


@attrs.frozen(kw_only=True)
class Wish:
    """What somebody wants who registers; None: this request doesn't say."""

    username: str | None = None
    password: str | None = None
    password_hash: str | None = None
    guest: UserID | None = None
    device_id: str | None = None
    device_name: str | None = None
    inhibit_login: bool | None = None
    wants_refresh: bool | None = None

    @property
    def device(self) -> DeviceWish | None:
        """Give the device to log in; None: nobody is to be logged in."""
        if self.inhibit_login:
            return None
        return DeviceWish(
            device_id=self.device_id or None,
            display_name=self.device_name,
            wants_refresh=bool(self.wants_refresh),
        )

    def or_else(self, earlier: JsonObject) -> "Wish":
        """Add what an earlier request said."""
        missing: dict[str, Any] = {
            key: value for key, value in earlier.items() if getattr(self, key) is None
        }
        if self.password is not None:
            missing.pop("password_hash", None)
        return attrs.evolve(self, **missing)


async def register(
    registration: Registration,
    interactive: InteractiveAuth,
    wish: Wish,
    auth: JsonObject | None,
    count: Callable[[], None],
    client_ip: str = "",
) -> tuple[UserID, Session | None]:
    """Make an account once enough is proved; `count` counts the attempt and may refuse it.

    Raises: AuthenticationNeeded, Forbidden, InvalidUsername, UserInUse, MissingParam, ….
    """
    registration.requirements.check_is_open()
    made = await interactive.outcome(OPERATION, auth)
    if made is None:
        try:
            return await _make(registration, interactive, wish, auth, count, client_ip)
        except (UserInUse, Unknown):
            # Perhaps another request of the same session was quicker.
            made = await interactive.outcome(OPERATION, auth)
            if made is None:
                raise
    user_id = UserID(made)
    return user_id, await registration.log_in_again(user_id, wish.password, wish.device)


async def _make(
    registration: Registration,
    interactive: InteractiveAuth,
    wish: Wish,
    auth: JsonObject | None,
    count: Callable[[], None],
    client_ip: str,
) -> tuple[UserID, Session | None]:
    requirements = registration.requirements
    await _name(registration, wish)

    async def remembering() -> JsonObject:
        return await _remembered(registration, wish)

    proof = await interactive.prove(
        OPERATION,
        auth,
        requirements.flows(),
        params=requirements.params(),
        remembering=remembering,
        client_ip=client_ip,
    )
    wish = wish.or_else(proof.remembered)
    if wish.password is None and wish.password_hash is None:
        raise MissingParam("Missing password")
    count()
    account = NewAccount(
        user_id=await _name(registration, wish) or registration.generated_name(),
        password=wish.password,
        password_hash=wish.password_hash,
        was_guest=wish.guest is not None,
        device=wish.device,
        proof=proof,
    )
    return account.user_id, await registration.register(account)


async def _name(registration: Registration, wish: Wish) -> UserID | None:
    if wish.guest is not None:
        return wish.guest
    return None if wish.username is None else await registration.check_name(wish.username)


async def _remembered(registration: Registration, wish: Wish) -> JsonObject:
    if wish.password is not None:
        hashed = await registration.hashed(wish.password)
        wish = attrs.evolve(wish, password=None, password_hash=hashed)
    return {key: value for key, value in attrs.asdict(wish).items() if value is not None}
