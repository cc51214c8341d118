"""The extension of profiles.

Spec: MSC4262.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

import attrs
import orjson

from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.tokens import SyncToken
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.shared_rooms import SharedRooms
from hs.services.sync.profile_updates import (
    ProfileFields,
    ProfileUpdates,
    ProfileViewer,
    merge_fields,
)

PROFILES_EXTENSION: Final = "org.matrix.msc4262.profiles"


@attrs.frozen(eq=False)
class ProfileScope:
    """The joined rooms in the scope of the extension, and what of them is new to the client.

    `full_rooms` returns those without lazy loading; `new_full_rooms` are those of them that are new
    to the client. `lazy_members` are the users whose member events the response adds to those that
    the client has of rooms with lazy loading, former members too.
    """

    full_rooms: Callable[[], AbstractSet[RoomID]]
    new_full_rooms: AbstractSet[RoomID]
    lazy_members: AbstractSet[UserID]


class ProfileExtensionPage(NamedTuple):
    """The members of the extension, and where the next response continues, if it is not the end."""

    members: dict[str, Any]
    reached: VectorPosition | None = None


@attrs.frozen(eq=False)
class ProfileExtension:
    """The renderer of the extension."""

    _updates: ProfileUpdates
    _memberships: Memberships
    _shared_rooms: SharedRooms

    async def make(
        self,
        viewer: ProfileViewer,
        fields: AbstractSet[str] | None,
        scope: ProfileScope,
        since: SyncToken | None,
        now: SyncToken,
    ) -> ProfileExtensionPage:
        """Return changed fields, and all fields of users that are new to the client.

        Users who have ceased to share a room with the user are null.
        """
        user_id = viewer.user_id
        contacts = await self._members_of(scope.new_full_rooms)
        contacts |= await self._updates.visible(viewer, scope.lazy_members)
        ceased: AbstractSet[UserID] = frozenset()
        profiles: ProfileFields = {}
        reached: VectorPosition | None = None
        if since is None:
            contacts.add(user_id)
        else:
            page = await self._updates.changes(
                viewer, fields, since.profile_updates, now.profile_updates
            )
            profiles, reached = page.fields, page.reached
            sharing = await self._shared_rooms.sharing_changes(user_id, since.events)
            ceased = sharing.ceased
            if sharing.began:
                contacts |= sharing.began & await self._members_of(scope.full_rooms())
        if contacts:
            merge_fields(profiles, await self._updates.current(viewer, contacts, fields))
        users = {each: _user_json(values) for each, values in profiles.items()}
        members = {**dict.fromkeys(ceased), **users}
        return ProfileExtensionPage({"users": members} if members else {}, reached)

    async def _members_of(self, room_ids: AbstractSet[RoomID]) -> set[UserID]:
        members: set[UserID] = set()
        for room_id in room_ids:
            members |= await self._memberships.joined(room_id)
        return members


def _user_json(fields: Mapping[str, bytes | None]) -> dict[str, Any]:
    updated = {name: orjson.Fragment(value) for name, value in fields.items() if value is not None}
    removed = [name for name, value in fields.items() if value is None]
    members: dict[str, Any] = {"updated": updated, "removed": removed}
    return {name: member for name, member in members.items() if member}
