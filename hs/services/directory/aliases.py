"""Local room aliases: lookup, creation rules, and reservations for rooms that are being created.

A reservation is a row without a room, which other creations cannot take. Binding and releasing
apply only to the reservation of the same time, so that a request that took too long cannot affect a
later reservation; reservations expire after RESERVED_FOR_MS. Whether a user may change the aliases
of a room is decided from the room's state, in services/rooms/naming.
"""

from typing import Final, Protocol

import attrs

from hs.core.errors import Forbidden, InvalidParam, MatrixError, RoomInUse, TooLarge
from hs.core.globs import compile_glob
from hs.core.ids import RoomAlias, RoomID, ServerName, UserID, parse_room_alias, server_of
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.settings.sections.rooms import RoomRule, RoomSettings
from hs.storage.database import Database
from hs.storage.directory import room_directory


class AliasNamespaces(Protocol):
    """The interface to application services, which reserve aliases and are notified of changes."""

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Reject aliases in exclusive namespaces of other services. Raises: Exclusive."""
        ...

    async def query_alias(self, alias: RoomAlias) -> bool:
        """Query the services for an unknown alias; return whether it may exist now."""
        ...

    def aliases_changed(self, *room_ids: RoomID) -> None:
        """Handle changed aliases of rooms."""
        ...


RESERVED_FOR_MS: Final = 120_000
MAX_ALIASES: Final = 1000  # of one room
_NO_ROOM: Final = RoomID("")


@attrs.frozen
class LocalAlias:
    """A local alias: its room and its creator."""

    room_id: RoomID
    creator: UserID


@attrs.frozen
class AliasReservation:
    """An alias reserved for a room that is being created."""

    alias: RoomAlias
    creator: UserID
    reserved_ms: int


@attrs.frozen(eq=False)
class LocalAliases:
    """The local room aliases."""

    _database: Database
    _server_name: ServerName
    _settings: RoomSettings
    _clock: Clock
    _namespaces: AliasNamespaces

    def is_local(self, alias: RoomAlias) -> bool:
        """Return whether an alias is one of this server."""
        return server_of(alias) == self._server_name

    def local_alias(self, localpart: str) -> RoomAlias:
        """Return the local alias with a localpart.

        Raises: InvalidParam.
        """
        if ":" in localpart or not localpart.strip():
            raise InvalidParam("The localpart of an alias must not be empty or contain a colon")
        return parse_room_alias(f"#{localpart}:{self._server_name}")

    async def find(self, alias: RoomAlias) -> LocalAlias | None:
        """Return a local alias, or None."""
        record = await self._database.read(room_directory.find_alias, alias)
        return (
            None if record is None else LocalAlias(RoomID(record.room_id), UserID(record.creator))
        )

    async def find_or_query(self, alias: RoomAlias) -> LocalAlias | None:
        """Return a local alias, after querying application services if it is unknown."""
        record = await self.find(alias)
        if record is None and await self._namespaces.query_alias(alias):
            record = await self.find(alias)
        return record

    async def of_room(self, room_id: RoomID) -> list[RoomAlias]:
        """Return the local aliases of a room."""
        aliases = await self._database.read(room_directory.aliases_of, room_id)
        return [RoomAlias(alias) for alias in aliases]

    async def reserve(self, creator: UserID, alias: RoomAlias) -> AliasReservation:
        """Reserve an alias for a room that is being created.

        Raises: Forbidden by the configured rules; RoomInUse.
        """
        self.check_may_create(creator, alias, "")
        now_ms = self._clock.now_ms()
        if not await self._add(alias, _NO_ROOM, creator, now_ms):
            raise RoomInUse("The room alias is already in use")
        return AliasReservation(alias, creator, now_ms)

    async def bind(self, reservation: AliasReservation, room_id: RoomID) -> None:
        """Make a reserved alias refer to the created room."""
        await self._database.write(
            room_directory.bind_alias,
            reservation.alias,
            room_id,
            reservation.creator,
            reservation.reserved_ms,
        )
        self._namespaces.aliases_changed(room_id)

    async def release(self, reservation: AliasReservation) -> None:
        """Release a reservation whose room was not created."""
        await self._database.write(
            room_directory.release_alias,
            reservation.alias,
            reservation.creator,
            reservation.reserved_ms,
        )

    async def add(self, creator: UserID, alias: RoomAlias, room_id: RoomID) -> None:
        """Create an alias of a room.

        Raises: InvalidParam for an alias of another server; Forbidden by the configured rules;
        MatrixError 409 if the alias exists; TooLarge if the room has too many.
        """
        if not self.is_local(alias):
            raise InvalidParam("The alias must be one of this server")
        self.check_may_create(creator, alias, room_id)
        if len(await self.of_room(room_id)) >= MAX_ALIASES:
            raise TooLarge(f"A room must not have more than {MAX_ALIASES} aliases")
        if not await self._add(alias, room_id, creator, self._clock.now_ms()):
            raise MatrixError("M_UNKNOWN", 409, f"Room alias {alias} already exists.")
        self._namespaces.aliases_changed(room_id)

    async def remove(self, alias: RoomAlias, room_id: RoomID) -> bool:
        """Delete an alias of a room; return whether it existed."""
        removed = await self._database.write(room_directory.remove_alias, alias, room_id)
        if removed:
            self._namespaces.aliases_changed(room_id)
        return removed

    async def move(self, from_room: RoomID, to_room: RoomID) -> None:
        """Move a room's aliases and its entry in the room directory to another room."""
        await self._database.write(room_directory.move_aliases, from_room, to_room)
        self._namespaces.aliases_changed(from_room, to_room)

    def check_may_manage(self, requester: Requester, alias: RoomAlias) -> None:
        """Reject aliases that are reserved by an application service. Raises: Exclusive."""
        self._namespaces.check_may_manage(requester, alias)

    def check_may_create(self, user_id: UserID, alias: str, room_id: str) -> None:
        """Apply the setting `alias_creation_rules`. Raises: Forbidden."""
        if not is_allowed(self._settings.alias_creation_rules, user_id, room_id, (alias,)):
            raise Forbidden("The server's rules do not allow you to create this alias")

    async def _add(self, alias: RoomAlias, room_id: str, creator: UserID, now_ms: int) -> bool:
        stale_ms = now_ms - RESERVED_FOR_MS
        return await self._database.write(
            room_directory.add_alias, alias, room_id, creator, now_ms, stale_ms
        )


def is_allowed(
    rules: tuple[RoomRule, ...] | None, user_id: str, room_id: str, aliases: tuple[str, ...]
) -> bool:
    """Return whether rules allow an action; the first matching rule decides, without one: False.

    A rule matches if any of the aliases matches; a room without aliases is matched as "".
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
