"""Sessions: a device with its access token, from log-in over refreshing to log-out."""

from typing import Protocol

import attrs

from hs.core.errors import Forbidden, InvalidParam, UnknownToken
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.accounts.limits.account_restrictions import check_may_get_tokens
from hs.services.accounts.sessions.authenticator import Revocations
from hs.services.accounts.sessions.token_format import (
    hash_of,
    new_access_token,
    new_device_id,
    new_refresh_token,
)
from hs.settings.sections.accounts import SessionSettings
from hs.storage.accounts import tokens
from hs.storage.accounts.tokens import AccessToken
from hs.storage.database import Database, Tx
from hs.storage.devices import device_keys, devices

MAX_DEVICE_ID_CHARS = 512
MAX_DEVICE_NAME_CHARS = 100


class DeviceWatcher(Protocol):
    """Who must know that devices came, changed or went: keys, messages, pushers, other servers."""

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Learn of devices that are new or have a new name."""
        ...

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Learn of devices that are gone, with their tokens."""
        ...


@attrs.frozen
class Session:
    """What somebody gets who logged in."""

    user_id: UserID
    device_id: str
    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None


@attrs.frozen(kw_only=True)
class DeviceWish:
    """What a client says of its device as it logs in."""

    device_id: str | None = None
    display_name: str | None = None
    wants_refresh: bool = False

    def check(self) -> None:
        """Refuse what cannot be stored. Raises: InvalidParam."""
        if self.device_id is not None and len(self.device_id) > MAX_DEVICE_ID_CHARS:
            raise InvalidParam(f"A device ID has at most {MAX_DEVICE_ID_CHARS} characters")
        check_device_name(self.display_name)


def check_device_name(name: str | None) -> None:
    """Refuse a name that is too long. Raises: InvalidParam."""
    if name is not None and len(name) > MAX_DEVICE_NAME_CHARS:
        raise InvalidParam(f"A device's name has at most {MAX_DEVICE_NAME_CHARS} characters")


@attrs.frozen
class Opening:
    """What is written as a session begins."""

    session: Session
    display_name: str | None
    now_ms: int
    valid_until_ms: int | None
    refresh_expires_ms: int | None
    session_ends_ms: int | None


@attrs.define(eq=False)
class Sessions:
    """Opens, refreshes and closes sessions."""

    _database: Database
    _clock: Clock
    _settings: SessionSettings
    _revocations: Revocations
    _watcher: DeviceWatcher

    def prepare(self, user_id: UserID, wish: DeviceWish) -> Opening:
        """Make the tokens of a new session, to be written by `write_opening`."""
        wish.check()
        now_ms = self._clock.now_ms()
        session_ends = _sooner(None, now_ms, self._settings.session_lifetime)
        lifetime = (
            self._settings.refreshable_access_token_lifetime
            if wish.wants_refresh
            else self._settings.nonrefreshable_access_token_lifetime
        )
        valid_until = _sooner(session_ends, now_ms, lifetime)
        session = Session(
            user_id=user_id,
            device_id=wish.device_id or new_device_id(),
            access_token=new_access_token(user_id),
            refresh_token=new_refresh_token(user_id) if wish.wants_refresh else None,
            expires_in_ms=None if valid_until is None else valid_until - now_ms,
        )
        refresh_expires = _sooner(session_ends, now_ms, self._settings.refresh_token_lifetime)
        return Opening(
            session, wish.display_name, now_ms, valid_until, refresh_expires, session_ends
        )

    async def open(self, user_id: UserID, wish: DeviceWish) -> Session:
        """Begin a session; the tokens that the device had are void.

        Raises: InvalidParam, Forbidden.
        """
        opening = self.prepare(user_id, wish)
        is_new, ended = await self._database.write(write_opening, opening)
        await self.opened(opening.session, is_new, ended)
        return opening.session

    async def opened(self, session: Session, is_new: bool, ended: list[str]) -> None:
        """Tell everybody concerned of a session that was written."""
        self._revocations.tokens(ended)
        if is_new:
            await self._watcher.devices_changed(session.user_id, [session.device_id])

    def rights_changed(self, user_id: UserID) -> None:
        """Tell everybody concerned that a user may more or less than before."""
        self._revocations.users(user_id)

    async def refresh(self, refresh_token: str) -> Session:
        """Exchange a refresh token; the old tokens live until the new ones are used.

        Raises: UnknownToken, with `soft_logout` when it ran out and the device lives on;
        UserLocked.
        Spec: client-server API, Refreshing access tokens.
        """
        now_ms = self._clock.now_ms()
        session, ended = await self._database.write(
            _exchange, refresh_token, now_ms, self._settings
        )
        self._revocations.tokens(ended)
        if session is None:
            raise UnknownToken("The refresh token is not known", soft_logout=False)
        return session

    async def close(self, requester: Requester) -> None:
        """Log out: the device is gone."""
        if requester.device_id is None:
            if requester.token_id is not None:
                self._revocations.tokens(
                    await self._database.write(tokens.delete, requester.token_id)
                )
            return
        await self.remove_devices(requester.user_id, [requester.device_id])

    async def remove_devices(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete devices with their tokens; those that are not there do not matter."""
        removed, ended = await self._database.write(devices.delete, user_id, device_ids)
        self._revocations.tokens(ended)
        if removed:
            await self._watcher.devices_removed(user_id, removed)

    async def close_all(self, user_id: UserID) -> None:
        """Log out everywhere."""
        removed, ended = await self._database.write(devices.delete_all, user_id)
        self._revocations.tokens(ended)
        if removed:
            await self._watcher.devices_removed(user_id, removed)

    async def close_others(self, requester: Requester) -> None:
        """Log out everywhere but here."""
        known = await self._database.read(devices.all_of, requester.user_id)
        others = [one.device_id for one in known if one.device_id != requester.device_id]
        if others:
            await self.remove_devices(requester.user_id, others)


async def write_opening(tx: Tx, opening: Opening) -> tuple[bool, list[str]]:
    """Write a session; tell whether the device is new and which tokens it had (their hashes)."""
    session = opening.session
    user_id, device_id = session.user_id, session.device_id
    is_new = await ensure_device(tx, user_id, device_id, opening.display_name, opening.now_ms)
    ended = [] if is_new else await tokens.delete_of_device(tx, user_id, device_id)
    refresh_id = None
    if session.refresh_token is not None:
        refresh_id = await tokens.insert_refresh(
            tx,
            hash_of(session.refresh_token),
            user_id,
            device_id,
            opening.refresh_expires_ms,
            opening.session_ends_ms,
        )
    token = AccessToken(
        hash_of(session.access_token),
        user_id,
        device_id,
        opening.now_ms,
        opening.valid_until_ms,
        refresh_id,
        opening.now_ms,
    )
    await tokens.insert(tx, token)
    return is_new, ended


async def ensure_device(
    tx: Tx, user_id: str, device_id: str, name: str | None, now_ms: int
) -> bool:
    """Add a device unless it is there; tell whether it is new.

    Raises: Forbidden, if signatures of the device would be taken for those of its user.
    """
    is_new = await devices.ensure(tx, user_id, device_id, name, now_ms)
    if is_new and await device_keys.is_cross_signing(tx, user_id, device_id):
        raise Forbidden("No device may be called like a cross-signing key")
    return is_new


async def _exchange(
    tx: Tx, refresh_token: str, now_ms: int, settings: SessionSettings
) -> tuple[Session | None, list[str]]:
    old = await tokens.lock_refresh(tx, hash_of(refresh_token))
    if old is None:
        return None, []
    check_may_get_tokens(is_locked=bool(old.is_locked))
    if old.session_ends_ms is not None and old.session_ends_ms <= now_ms:
        raise UnknownToken("The session has ended; log in again", soft_logout=True)
    if old.expires_ms is not None and old.expires_ms <= now_ms:
        raise UnknownToken("The refresh token has expired; log in again", soft_logout=True)
    # Its use ends what came before it; what it was exchanged for earlier was never used.
    ended = await tokens.end_before(tx, old.refresh_id)
    if old.next_id is not None:
        ended += await tokens.end_refresh(tx, old.next_id)
    user_id = UserID(old.user_id)
    valid_until = _sooner(old.session_ends_ms, now_ms, settings.refreshable_access_token_lifetime)
    session = Session(
        user_id=user_id,
        device_id=old.device_id,
        access_token=new_access_token(user_id),
        refresh_token=new_refresh_token(user_id),
        expires_in_ms=None if valid_until is None else valid_until - now_ms,
    )
    assert session.refresh_token is not None
    refresh_id = await tokens.insert_refresh(
        tx,
        hash_of(session.refresh_token),
        user_id,
        old.device_id,
        _sooner(old.session_ends_ms, now_ms, settings.refresh_token_lifetime),
        old.session_ends_ms,
    )
    await tokens.set_next(tx, old.refresh_id, refresh_id)
    token = AccessToken(
        hash_of(session.access_token), user_id, old.device_id, now_ms, valid_until, refresh_id
    )
    await tokens.insert(tx, token)
    return session, ended


def _sooner(ends_ms: int | None, now_ms: int, lifetime_ms: int | None) -> int | None:
    bounds = [ends_ms, None if lifetime_ms is None else now_ms + lifetime_ms]
    return min((bound for bound in bounds if bound is not None), default=None)
