"""The section of profiles in `/sync`, for clients whose filter names profile fields.

Spec: MSC4429.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import attrs
import orjson

from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.shared_rooms import SharedRooms
from hs.services.sync.profile_updates import (
    ProfileFields,
    ProfileUpdates,
    ProfileViewer,
    merge_fields,
)
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext

USERS: Final = b"org.matrix.msc4429.users"


class ProfileMember(NamedTuple):
    """The member of a response, empty without updates, and where the next response continues.

    `reached` is None if that is the end of this response.
    """

    text: bytes = b""
    reached: VectorPosition | None = None


NO_PROFILES: Final = ProfileMember()


@attrs.frozen(eq=False)
class ProfileSection:
    """The renderer of the section. It does nothing for clients that do not ask for it."""

    updates: ProfileUpdates
    _memberships: Memberships
    _shared_rooms: SharedRooms

    async def render(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]
    ) -> ProfileMember:
        """Return the section; call it after the rooms are rendered.

        It has the fields that changed since the token, and all requested fields of users that are
        new to the client: with lazy loading those whose member events are in the response, else
        those who share a room only since the token.
        """
        fields = context.compiled_filter.filter.profile_fields
        if not fields:
            return NO_PROFILES
        viewer = ProfileViewer(context.user_id, context.ignored)
        reached: VectorPosition | None = None
        users: ProfileFields = {}
        since, now = context.since, context.position.token.profile_updates
        if since is not None:
            page = await self.updates.changes(viewer, fields, since.profile_updates, now)
            users, reached = page.fields, page.reached
        contacts = await self._contacts(context, room_contexts, viewer)
        if contacts:
            merge_fields(users, await self.updates.current(viewer, contacts, fields))
        if not users:
            return ProfileMember(reached=reached)
        entries = [
            b'%b:{"profile_updates":{%b}}' % (orjson.dumps(user_id), _fields_json(values))
            for user_id, values in users.items()
        ]
        return ProfileMember(b'"%b":{%b}' % (USERS, b",".join(entries)), reached)

    async def _contacts(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        viewer: ProfileViewer,
    ) -> AbstractSet[UserID]:
        contacts: set[UserID] = set()
        if context.since is None:
            contacts.add(context.user_id)
        if context.compiled_filter.is_lazy:
            # Also former members, who have sent an event of the timeline.
            added = {user_id for _, user_id, _ in context.added_members}
            contacts |= await self.updates.visible(viewer, added)
        elif context.since is None:
            for room in room_contexts:
                if room.section is MembershipSection.JOIN:
                    contacts.update(await self._memberships.joined(room.room_id))
        else:
            sharing = await self._shared_rooms.sharing_changes(
                context.user_id, context.since.events
            )
            contacts.update(sharing.began)
        return contacts


def _fields_json(fields: dict[str, bytes | None]) -> bytes:
    return b",".join(
        [b"%b:%b" % (orjson.dumps(name), value or b"null") for name, value in fields.items()]
    )
