"""What the server itself tells users: one room for each of them, which they cannot turn down.

Spec: client-server API, Server Notices.
"""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import NotFound
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import RoomVersion, room_version
from hs.lib.clock import Clock
from hs.lib.keyed_lock import KeyedLock
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft, TxnKey
from hs.services.rooms.creation.initial_events import (
    PRIVATE_CHAT,
    default_power_levels,
    topic_content,
)
from hs.services.rooms.profiles.member_profiles import LocalProfiles, shown
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.retention import NoticeSettings
from hs.storage.admin import server_notices
from hs.storage.database import Database

TAG = "m.server_notice"
_HERE = (event_types.JOIN, event_types.INVITE)

log = logging.getLogger(__name__)


class Tags(Protocol):
    """Tags users' rooms."""

    async def put_tag(
        self, user_id: UserID, room_id: RoomID, tag: str, content: JsonObject
    ) -> None:
        """Tag a room."""
        ...


@attrs.frozen(eq=False, kw_only=True)
class ServerNotices:
    """Sends notices; `notices_user` None: there are none on this server."""

    settings: NoticeSettings
    notices_user: UserID | None
    default_version: str
    database: Database
    appender: RoomAppender
    memberships: Memberships
    profiles: LocalProfiles
    tags: Tags
    clock: Clock
    locks: KeyedLock[UserID] = attrs.field(factory=KeyedLock)

    @property
    def is_enabled(self) -> bool:
        """Tell whether the server speaks to its users."""
        return self.notices_user is not None

    async def reserve(self) -> None:
        """Keep others from registering under the name that notices come from."""
        if self.notices_user is not None:
            await self.database.write(
                server_notices.reserve, self.notices_user, self.clock.now_ms()
            )

    async def send(
        self,
        user_id: UserID,
        content: Mapping[str, Any],
        *,
        event_type: str = event_types.MESSAGE,
        state_key: str | None = None,
        txn: TxnKey | None = None,
    ) -> EventID:
        """Tell a user something, in a room that is made or joined again where needed.

        Raises: NotFound, when notices are not configured or the user is not of this server.
        """
        speaker = self.notices_user
        if speaker is None:
            raise NotFound("Server notices are not enabled on this server")
        if not self.memberships.is_local(user_id):
            raise NotFound("Server notices are for users of this server")
        async with self.locks.hold(user_id):
            room_id = await self._room(speaker, user_id)
            await self._bring(speaker, user_id, room_id)
        draft = Draft(event_type, speaker, dict(content), state_key, txn=txn)
        return (await self.appender.append(room_id, [draft]))[0].event_id

    async def _room(self, speaker: UserID, user_id: UserID) -> RoomID:
        known = await self.database.read(server_notices.room_of, user_id)
        if known is not None:
            if await self.memberships.is_joined(RoomID(known), speaker):
                return RoomID(known)
            await self.database.write(server_notices.forget, user_id, known)
        drafts = self._first_events(speaker, room_version(self.default_version))
        made = (await self.appender.create(self.default_version, drafts))[0].room_id
        # Another process may have been quicker; then nobody will ever enter this one.
        room_id = RoomID(await self.database.write(server_notices.claim, user_id, made))
        if room_id == made:
            log.info("%s has a room for notices: %s", user_id, room_id)
        return room_id

    async def _bring(self, speaker: UserID, user_id: UserID, room_id: RoomID) -> None:
        """Have the user invited, or joined, with the room tagged beforehand."""
        wanted = (event_types.JOIN,) if self.settings.auto_join else _HERE
        own = await self.memberships.local_membership(room_id, user_id)
        if own is not None and own.membership in wanted:
            return
        await self.tags.put_tag(user_id, room_id, TAG, {})
        profile = shown(await self.profiles.of_local(user_id))
        drafts = []
        if own is None or own.membership not in _HERE:
            drafts.append(_member(speaker, user_id, event_types.INVITE, profile))
        if self.settings.auto_join:
            drafts.append(_member(user_id, user_id, event_types.JOIN, profile))
        await self.appender.append(room_id, drafts)

    def _first_events(self, speaker: UserID, rules: RoomVersion) -> list[Draft]:
        settings = self.settings
        levels = {**default_power_levels(rules, speaker, PRIVATE_CHAT), "users_default": -10}
        profile = shown(
            {
                "displayname": settings.system_mxid_display_name,
                "avatar_url": settings.system_mxid_avatar_url,
            }
        )
        state: list[tuple[str, JsonObject]] = [
            (event_types.POWER_LEVELS, levels),
            (event_types.JOIN_RULES, {"join_rule": event_types.RULE_INVITE}),
            (event_types.HISTORY_VISIBILITY, {"history_visibility": "shared"}),
            (event_types.GUEST_ACCESS, {"guest_access": "can_join"}),
        ]
        if settings.room_name:
            state.append((event_types.NAME, {"name": settings.room_name}))
        if settings.room_topic:
            state.append((event_types.TOPIC, topic_content(settings.room_topic)))
        if settings.room_avatar_url:
            state.append((event_types.AVATAR, {"url": settings.room_avatar_url}))
        return [
            Draft(event_types.CREATE, speaker, {"m.federate": False}, ""),
            _member(speaker, speaker, event_types.JOIN, profile),
            *(Draft(event_type, speaker, content, "") for event_type, content in state),
        ]


def _member(sender: UserID, user_id: UserID, membership: str, profile: Mapping[str, str]) -> Draft:
    content = {**profile, "membership": membership}
    return Draft(event_types.MEMBER, sender, content, user_id)
