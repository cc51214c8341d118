"""Sessions: a device and its access and refresh tokens, from login to logout.

Rules:

- All changes of tokens are transactions; the hashes of deleted access tokens are announced after
  the commit, so that no process keeps them in its cache (see `authenticator`).
- A login to an existing device replaces its tokens.
- A refresh issues new tokens and keeps the old ones until a new one is used, because the response
  may be lost. The refresh token row is locked, so that concurrent refreshes are serialised. A
  second refresh with the same token deletes the unused tokens of the first.
- The use of a refresh token ends the tokens that it was exchanged from.
- Deleting a device deletes its tokens. Watchers learn of new, renamed and deleted devices after
  the commit.
"""

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
from hs.storage.accounts.tokens import AccessTokenRecord
from hs.storage.database import Database, Tx
from hs.storage.devices import device_keys, devices

MAX_DEVICE_ID_CHARS = 512
MAX_DEVICE_NAME_CHARS = 100
MAX_DEVICES = 1000  # of one user; a further one logs out those that were not used for longest


class DeviceWatcher(Protocol):
    """A listener for device changes, which affect keys, to-device messages and pushers."""

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Handle new and renamed devices."""
        ...

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        """Handle deleted devices, whose tokens are deleted as well."""
        ...


@attrs.frozen
class Session:
    """The response to a login or refresh."""

    user_id: UserID
    device_id: str
    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None


@attrs.frozen(kw_only=True)
class RequestedDevice:
    """The device that a client asks for when it logs in."""

    device_id: str | None = None
    display_name: str | None = None
    wants_refresh: bool = False

    def check(self) -> None:
        """Check the lengths of the ID and name. Raises: InvalidParam."""
        if self.device_id is not None and len(self.device_id) > MAX_DEVICE_ID_CHARS:
            raise InvalidParam(f"device_id must not exceed {MAX_DEVICE_ID_CHARS} characters")
        check_device_name(self.display_name)


def check_device_name(name: str | None) -> None:
    """Reject a device name that is too long. Raises: InvalidParam."""
    if name is not None and len(name) > MAX_DEVICE_NAME_CHARS:
        raise InvalidParam(f"The device name must not exceed {MAX_DEVICE_NAME_CHARS} characters")


@attrs.frozen
class NewSession:
    """A new session that is not stored yet."""

    session: Session
    display_name: str | None
    now_ms: int
    valid_until_ms: int | None
    refresh_expires_ms: int | None
    session_ends_ms: int | None


@attrs.define(eq=False)
class Sessions:
    """Login, token refresh and logout."""

    _database: Database
    _clock: Clock
    _settings: SessionSettings
    _revocations: Revocations
    _watcher: DeviceWatcher

    def prepare(self, user_id: UserID, device: RequestedDevice) -> NewSession:
        """Create the tokens of a new session, for `write_session` to store."""
        device.check()
        now_ms = self._clock.now_ms()
        session_ends = _earliest(None, now_ms, self._settings.session_lifetime)
        lifetime = (
            self._settings.refreshable_access_token_lifetime
            if device.wants_refresh
            else self._settings.nonrefreshable_access_token_lifetime
        )
        valid_until = _earliest(session_ends, now_ms, lifetime)
        session = Session(
            user_id=user_id,
            device_id=device.device_id or new_device_id(),
            access_token=new_access_token(user_id),
            refresh_token=new_refresh_token(user_id) if device.wants_refresh else None,
            expires_in_ms=None if valid_until is None else valid_until - now_ms,
        )
        refresh_expires = _earliest(session_ends, now_ms, self._settings.refresh_token_lifetime)
        return NewSession(
            session=session,
            display_name=device.display_name,
            now_ms=now_ms,
            valid_until_ms=valid_until,
            refresh_expires_ms=refresh_expires,
            session_ends_ms=session_ends,
        )

    async def open(self, user_id: UserID, device: RequestedDevice) -> Session:
        """Log in a device; tokens that it had are deleted.

        Raises: InvalidParam, Forbidden.
        """
        new_session = self.prepare(user_id, device)
        is_new, ended_hashes = await self._database.write(write_session, new_session)
        await self.announce_opened(new_session.session, is_new, ended_hashes)
        return new_session.session

    async def announce_opened(
        self, session: Session, is_new: bool, ended_hashes: list[str]
    ) -> None:
        """Announce a stored session to other processes, and its device if that is new."""
        self._revocations.announce_tokens(ended_hashes)
        if not is_new:
            return
        await self.announce_device(session.user_id, session.device_id)

    async def announce_device(self, user_id: UserID, device_id: str) -> None:
        """Announce a new device to device watchers.

        If the user has too many devices now, those that were not used for longest are deleted.
        """
        await self._watcher.devices_changed(user_id, [device_id])
        excess = await self._database.read(
            devices.list_least_recent, user_id, device_id, MAX_DEVICES
        )
        if excess:
            await self.remove_devices(user_id, excess)

    def announce_rights_changed(self, user_id: UserID) -> None:
        """Announce to all processes that a user's rights have changed."""
        self._revocations.announce_users(user_id)

    async def refresh(self, refresh_token: str) -> Session:
        """Exchange a refresh token; the old tokens stay valid until a new one is used.

        Raises: UnknownToken, with `soft_logout` if the token or session has expired; UserLocked.
        Spec: client-server API, Refreshing access tokens.
        """
        # A read first: unknown tokens, which anybody may send, must not cost a write.
        if not await self._database.read(tokens.is_refresh_token, hash_of(refresh_token)):
            raise _unknown_refresh_token()
        now_ms = self._clock.now_ms()
        session, ended_hashes = await self._database.write(
            _exchange, refresh_token, now_ms, self._settings
        )
        self._revocations.announce_tokens(ended_hashes)
        if session is None:
            raise _unknown_refresh_token()
        return session

    async def close(self, requester: Requester) -> None:
        """Log out: delete the device and its tokens."""
        if requester.device_id is None:
            if requester.token_id is not None:
                self._revocations.announce_tokens(
                    await self._database.write(tokens.delete, requester.token_id)
                )
            return
        await self.remove_devices(requester.user_id, [requester.device_id])

    async def remove_devices(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete devices with their tokens; unknown device IDs are ignored."""
        removed_ids, ended_hashes = await self._database.write(devices.delete, user_id, device_ids)
        self._revocations.announce_tokens(ended_hashes)
        if removed_ids:
            await self._watcher.devices_removed(user_id, removed_ids)

    async def close_all(self, user_id: UserID) -> None:
        """Log out all devices of a user."""
        removed_ids, ended_hashes = await self._database.write(devices.delete_all, user_id)
        self._revocations.announce_tokens(ended_hashes)
        if removed_ids:
            await self._watcher.devices_removed(user_id, removed_ids)

    async def close_others(self, requester: Requester) -> None:
        """Log out all devices of the requester except the current one."""
        records = await self._database.read(devices.list_devices, requester.user_id)
        other_ids = [
            record.device_id for record in records if record.device_id != requester.device_id
        ]
        if other_ids:
            await self.remove_devices(requester.user_id, other_ids)


def _unknown_refresh_token() -> UnknownToken:
    return UnknownToken("Unrecognised refresh token", soft_logout=False)


async def write_session(tx: Tx, new_session: NewSession) -> tuple[bool, list[str]]:
    """Store a session; return whether the device is new, and the hashes of its deleted tokens."""
    session = new_session.session
    user_id, device_id = session.user_id, session.device_id
    is_new = await ensure_device(
        tx, user_id, device_id, new_session.display_name, new_session.now_ms
    )
    ended_hashes = [] if is_new else await tokens.delete_of_device(tx, user_id, device_id)
    refresh_id = None
    if session.refresh_token is not None:
        refresh_id = await tokens.insert_refresh(
            tx,
            hash_of(session.refresh_token),
            user_id,
            device_id,
            new_session.refresh_expires_ms,
            new_session.session_ends_ms,
        )
    token = AccessTokenRecord(
        token_hash=hash_of(session.access_token),
        user_id=user_id,
        device_id=device_id,
        created_ms=new_session.now_ms,
        valid_until_ms=new_session.valid_until_ms,
        refresh_id=refresh_id,
        proved_ms=new_session.now_ms,
    )
    await tokens.insert(tx, token)
    return is_new, ended_hashes


async def ensure_device(
    tx: Tx, user_id: str, device_id: str, name: str | None, now_ms: int
) -> bool:
    """Add a device unless it exists; return whether it is new.

    Raises: Forbidden if the device ID is also a cross-signing key of the user, because signatures
    of the device could then pass for signatures of the key.
    """
    is_new = await devices.ensure(tx, user_id, device_id, name, now_ms)
    if is_new and await device_keys.is_cross_signing_key(tx, user_id, device_id):
        raise Forbidden("device_id must not equal a cross-signing key ID")
    return is_new


async def _exchange(
    tx: Tx, refresh_token: str, now_ms: int, settings: SessionSettings
) -> tuple[Session | None, list[str]]:
    old_token = await tokens.lock_refresh(tx, hash_of(refresh_token))
    if old_token is None:
        return None, []
    check_may_get_tokens(is_locked=bool(old_token.is_locked))
    if old_token.session_ends_ms is not None and old_token.session_ends_ms <= now_ms:
        raise UnknownToken("The session has expired; log in again", soft_logout=True)
    if old_token.expires_ms is not None and old_token.expires_ms <= now_ms:
        raise UnknownToken("The refresh token has expired; log in again", soft_logout=True)
    # This use ends the preceding tokens. Tokens from an earlier exchange were never used, or this
    # token would have been deleted.
    ended_hashes = await tokens.delete_predecessors(tx, old_token.refresh_id)
    if old_token.next_id is not None:
        ended_hashes += await tokens.delete_refresh(tx, old_token.next_id)
    user_id = UserID(old_token.user_id)
    valid_until = _earliest(
        old_token.session_ends_ms, now_ms, settings.refreshable_access_token_lifetime
    )
    session = Session(
        user_id=user_id,
        device_id=old_token.device_id,
        access_token=new_access_token(user_id),
        refresh_token=new_refresh_token(user_id),
        expires_in_ms=None if valid_until is None else valid_until - now_ms,
    )
    assert session.refresh_token is not None
    refresh_id = await tokens.insert_refresh(
        tx,
        hash_of(session.refresh_token),
        user_id,
        old_token.device_id,
        _earliest(old_token.session_ends_ms, now_ms, settings.refresh_token_lifetime),
        old_token.session_ends_ms,
    )
    await tokens.set_next(tx, old_token.refresh_id, refresh_id)
    access_token = AccessTokenRecord(
        token_hash=hash_of(session.access_token),
        user_id=user_id,
        device_id=old_token.device_id,
        created_ms=now_ms,
        valid_until_ms=valid_until,
        refresh_id=refresh_id,
    )
    await tokens.insert(tx, access_token)
    return session, ended_hashes


def _earliest(ends_ms: int | None, now_ms: int, lifetime_ms: int | None) -> int | None:
    bounds = [ends_ms, None if lifetime_ms is None else now_ms + lifetime_ms]
    return min((bound for bound in bounds if bound is not None), default=None)
