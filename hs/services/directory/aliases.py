"""Aliases of this server: what they stand for, who may make them, and holding one for a new room.

Whether a user may name a room is decided with the room's state, by services/rooms/naming.
"""

from typing import Final, Protocol

import attrs

from hs.core.errors import Forbidden, InvalidParam, MatrixError, RoomInUse
from hs.core.globs import compile_glob
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, parse_room_alias, server_of
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.settings.sections.rooms import RoomRule, RoomSettings
from hs.storage.database import Database
from hs.storage.directory import room_directory


class AliasNamespaces(Protocol):
    """Knows which aliases belong to application services, and hears of those that change."""

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Refuse aliases that somebody else has for themselves. Raises: Exclusive."""
        ...

    async def make_alias(self, alias: RoomAlias) -> bool:
        """Have an alias made that is not there; tell whether it may be there now."""
        ...

    def aliases_changed(self, *room_ids: RoomID) -> None:
        """Learn that rooms have other aliases than before."""
        ...


class NoNamespaces:
    """The answers of a server without application services."""

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Refuse nothing."""

    async def make_alias(self, alias: RoomAlias) -> bool:
        return False

    def aliases_changed(self, *room_ids: RoomID) -> None:
        """Tell nobody."""


RESERVED_FOR_MS: Final = 120_000
_NO_ROOM: Final = RoomID("")


@attrs.frozen
class Alias:
    """An alias of this server: its room, and who made it."""

    room_id: RoomID
    creator: UserID


@attrs.frozen
class Reservation:
    """An alias held for a room that is being made."""

    alias: RoomAlias
    creator: UserID
    reserved_ms: int


@attrs.frozen(eq=False)
class Aliases:
    """The aliases of this server."""

    _database: Database
    _server_name: ServerName
    _settings: RoomSettings
    _clock: Clock
    _namespaces: AliasNamespaces

    def is_local(self, alias: RoomAlias) -> bool:
        """Tell whether this server answers for an alias."""
        return server_of(alias) == self._server_name

    def named(self, localpart: str) -> RoomAlias:
        """Make an alias of this server.

        Raises: InvalidParam.
        """
        if ":" in localpart or not localpart.strip():
            raise InvalidParam("The local part of an alias is not empty and has no colon")
        return parse_room_alias(f"#{localpart}:{self._server_name}")

    async def find(self, alias: RoomAlias) -> Alias | None:
        """Give what an alias stands for."""
        found = await self._database.read(room_directory.find_alias, alias)
        return None if found is None else Alias(RoomID(found.room_id), UserID(found.creator))

    async def find_or_make(self, alias: RoomAlias) -> Alias | None:
        """Give what an alias stands for; an application service may make it for that."""
        found = await self.find(alias)
        if found is None and await self._namespaces.make_alias(alias):
            found = await self.find(alias)
        return found

    async def of_room(self, room_id: RoomID) -> list[RoomAlias]:
        """List the aliases of a room."""
        found = await self._database.read(room_directory.aliases_of, room_id)
        return [RoomAlias(alias) for alias in found]

    async def reserve(self, creator: UserID, alias: RoomAlias) -> Reservation:
        """Hold an alias for a room that is about to be made.

        Raises: Forbidden, by the rules of the settings; RoomInUse.
        """
        self.check_may_create(creator, alias, "")
        now_ms = self._clock.now_ms()
        if not await self._add(alias, _NO_ROOM, creator, now_ms):
            raise RoomInUse("The room alias is taken")
        return Reservation(alias, creator, now_ms)

    async def bind(self, held: Reservation, room_id: RoomID) -> None:
        """Give a reserved alias its room."""
        await self._database.write(
            room_directory.bind_alias, held.alias, room_id, held.creator, held.reserved_ms
        )
        self._namespaces.aliases_changed(room_id)

    async def release(self, held: Reservation) -> None:
        """Give a reservation up, as its room was not made."""
        await self._database.write(
            room_directory.release_alias, held.alias, held.creator, held.reserved_ms
        )

    async def add(self, creator: UserID, alias: RoomAlias, room_id: RoomID) -> None:
        """Have an alias stand for a room.

        Raises: InvalidParam for another server's alias; Forbidden, by the rules of the settings;
        MatrixError 409 when it is taken.
        """
        if not self.is_local(alias):
            raise InvalidParam("The alias is not of this server")
        self.check_may_create(creator, alias, room_id)
        if not await self._add(alias, room_id, creator, self._clock.now_ms()):
            raise MatrixError("M_UNKNOWN", 409, f"Room alias {alias} already exists.")
        self._namespaces.aliases_changed(room_id)

    async def remove(self, alias: RoomAlias, room_id: RoomID) -> bool:
        """Remove an alias that stands for a room; tell whether it did."""
        removed = await self._database.write(room_directory.remove_alias, alias, room_id)
        if removed:
            self._namespaces.aliases_changed(room_id)
        return removed

    async def move(self, from_room: RoomID, to_room: RoomID) -> None:
        """Have another room take over a room's aliases, and its place in the list of rooms."""
        await self._database.write(room_directory.move_aliases, from_room, to_room)
        self._namespaces.aliases_changed(from_room, to_room)

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Refuse aliases that belong to an application service. Raises: Exclusive."""
        self._namespaces.check_may_manage(requester, alias)

    def check_may_create(self, user_id: UserID, alias: str, room_id: str) -> None:
        """Refuse what the settings' `alias_creation_rules` do not allow. Raises: Forbidden."""
        if not is_allowed(self._settings.alias_creation_rules, user_id, room_id, (alias,)):
            raise Forbidden("You may not create this alias")

    async def _add(self, alias: RoomAlias, room_id: str, creator: UserID, now_ms: int) -> bool:
        stale_ms = now_ms - RESERVED_FOR_MS
        return await self._database.write(
            room_directory.add_alias, alias, room_id, creator, now_ms, stale_ms
        )


def is_allowed(
    rules: tuple[RoomRule, ...] | None, user_id: str, room_id: str, aliases: tuple[str, ...]
) -> bool:
    """Tell whether rules allow something; the first that matches decides, none denies.

    A rule about aliases matches if one of them does; a room without any is "".
    """
    if rules is None:
        return True
    for rule in rules:
        pattern = compile_glob(rule.alias)
        if (
            compile_glob(rule.user_id).matches(user_id)
            and compile_glob(rule.room_id).matches(room_id)
            and any(pattern.matches(alias) for alias in aliases or ("",))
        ):
            return rule.action == "allow"
    return False
