"""Settings that are carried over from a room to the room that replaces it.

When a user joins the new room, their tags, direct chat entries and push rules of the old room are
copied. If a user of another server has upgraded the room, this server's aliases and its entry in
the room directory follow as well, provided that the tombstone of the old room names the new one:
anybody can name any room as the predecessor of their own.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.errors import InvalidParam, MatrixError
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID, UserID, parse_room_id
from hs.services.accounts.account_data.account_data import DIRECT, AccountDataService
from hs.services.accounts.account_data.account_data_writer import TAG
from hs.services.directory.aliases import LocalAliases
from hs.services.rooms.store.auth_state import AuthStateReader
from hs.services.rooms.store.memberships import Memberships

_TOMBSTONE_KEY: Final = (event_types.TOMBSTONE, "")

log = logging.getLogger(__name__)


class RoomPushRules(Protocol):
    """Push rules of users."""

    async def copy_room_rules(
        self, user_ids: list[UserID], old_room_id: RoomID, new_room_id: RoomID
    ) -> None:
        """Copy users' push rules for an upgraded room to its replacement."""
        ...


@attrs.frozen(eq=False)
class RoomSuccession:
    """Carries settings over from a room to its replacement."""

    _memberships: Memberships
    _auth_states: AuthStateReader
    _aliases: LocalAliases
    _account_data: AccountDataService
    _rules: RoomPushRules

    async def follow(self, user_id: UserID, create: Event) -> None:
        """Carry settings over to a room that a user has just joined from its predecessor.

        Errors are logged, as the user has joined already.
        """
        old_room_id = predecessor_of(create)
        if old_room_id is None:
            return
        if not self._memberships.is_local(create.sender):
            await self._move_aliases(old_room_id, create.room_id)
        own = await self._memberships.local_membership(old_room_id, user_id)
        if own is None or own.membership != event_types.JOIN:
            return
        try:
            await self._copy_tags(user_id, old_room_id, create.room_id)
            await self._copy_direct(user_id, old_room_id, create.room_id)
            await self._rules.copy_room_rules([user_id], old_room_id, create.room_id)
        except MatrixError as error:
            log.warning(
                "could not copy settings of user %s from room %s: %s", user_id, old_room_id, error
            )

    async def _move_aliases(self, old_room_id: RoomID, room_id: RoomID) -> None:
        old = await self._auth_states.read(old_room_id, more=(_TOMBSTONE_KEY,))
        tombstone = None if old is None else old.events.get(_TOMBSTONE_KEY)
        if tombstone is not None and successor_in(tombstone.content) == room_id:
            await self._aliases.move(old_room_id, room_id)

    async def _copy_tags(self, user_id: UserID, old_room_id: RoomID, room_id: RoomID) -> None:
        tags = await self._account_data.stored(user_id, old_room_id, TAG)
        if tags is None or await self._account_data.stored(user_id, room_id, TAG) is not None:
            return
        await self._account_data.put(user_id, room_id, TAG, orjson.loads(tags))

    async def _copy_direct(self, user_id: UserID, old_room_id: RoomID, room_id: RoomID) -> None:
        content = await self._account_data.stored(user_id, None, DIRECT)
        direct = {} if content is None else orjson.loads(content)
        changed = {
            user: [*rooms, room_id]
            for user, rooms in direct.items()
            if isinstance(rooms, list) and old_room_id in rooms and room_id not in rooms
        }
        if changed:
            await self._account_data.put(user_id, None, DIRECT, {**direct, **changed})


def predecessor_of(create: Event) -> RoomID | None:
    """Return the room that a room replaces, from its create event."""
    predecessor: Any = create.content.get("predecessor")
    return _room_id(predecessor.get("room_id") if isinstance(predecessor, dict) else None)


def successor_in(tombstone: Mapping[str, Any]) -> RoomID | None:
    """Return the room that replaces a room, from the content of its tombstone."""
    return _room_id(tombstone.get("replacement_room"))


def _room_id(text: object) -> RoomID | None:
    if not isinstance(text, str):
        return None
    try:
        return parse_room_id(text)
    except InvalidParam:
        return None
