"""Server notices: messages from the server in one room per user, which the user cannot reject.

Spec: client-server API, Server Notices.
"""

import logging
from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import NotFound
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import RoomVersion, room_version
from hs.lib.clock import Clock
from hs.lib.keyed_lock import KeyedLock
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft, TransactionKey
from hs.services.rooms.creation.initial_events import (
    PRIVATE_CHAT,
    default_power_levels,
    topic_content,
)
from hs.services.rooms.profiles.member_profiles import member_profile
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.retention import ServerNoticeSettings
from hs.storage.admin import server_notices
from hs.storage.database import Database

TAG = "m.server_notice"
_INVITED_OR_JOINED = (event_types.JOIN, event_types.INVITE)

log = logging.getLogger(__name__)


@attrs.frozen(eq=False, kw_only=True)
class ServerNotices:
    """The sender of server notices; they are disabled if `notices_user` is None."""

    settings: ServerNoticeSettings
    notices_user: UserID | None
    default_version: str
    database: Database
    appender: RoomAppender
    memberships: Memberships
    profiles: Profiles
    tags: AccountDataService
    clock: Clock
    locks: KeyedLock[UserID] = attrs.field(factory=KeyedLock)

    @property
    def is_enabled(self) -> bool:
        """Whether server notices are configured."""
        return self.notices_user is not None

    async def reserve(self) -> None:
        """Create the account of the notices user, so that nobody can register it."""
        if self.notices_user is not None:
            await self.database.write(
                server_notices.reserve_account, self.notices_user, self.clock.now_ms()
            )

    async def send(
        self,
        user_id: UserID,
        content: Mapping[str, Any],
        *,
        event_type: str = event_types.MESSAGE,
        state_key: str | None = None,
        txn: TransactionKey | None = None,
    ) -> EventID:
        """Send a notice to a user; create the room or invite the user again if needed.

        Raises: NotFound if notices are not configured or the user is not local.
        """
        notices_user = self.notices_user
        if notices_user is None:
            raise NotFound("Server notices are not enabled on this server")
        if not self.memberships.is_local(user_id):
            raise NotFound("Server notices can be sent to local users only")
        async with self.locks.hold(user_id):
            room_id = await self._find_or_create_room(notices_user, user_id)
            await self._ensure_invited(notices_user, user_id, room_id)
        draft = Draft(event_type, notices_user, dict(content), state_key, txn=txn)
        return (await self.appender.append(room_id, [draft]))[0].event_id

    async def _find_or_create_room(self, notices_user: UserID, user_id: UserID) -> RoomID:
        stored_id = await self.database.read(server_notices.find_notice_room, user_id)
        if stored_id is not None:
            if await self.memberships.is_joined(RoomID(stored_id), notices_user):
                return RoomID(stored_id)
            await self.database.write(server_notices.delete_notice_room, user_id, stored_id)
        drafts = self._initial_events(notices_user, room_version(self.default_version))
        created_id = (await self.appender.create(self.default_version, drafts))[0].room_id
        # Another process may have created a room concurrently; then this one stays unused.
        room_id = RoomID(
            await self.database.write(server_notices.claim_notice_room, user_id, created_id)
        )
        if room_id == created_id:
            log.info("created server notices room %s for %s", room_id, user_id)
        return room_id

    async def _ensure_invited(self, notices_user: UserID, user_id: UserID, room_id: RoomID) -> None:
        """Make sure that the user is invited or joined; the room is tagged before that."""
        accepted = (event_types.JOIN,) if self.settings.auto_join else _INVITED_OR_JOINED
        membership = await self.memberships.local_membership(room_id, user_id)
        if membership is not None and membership.membership in accepted:
            return
        await self.tags.put_tag(user_id, room_id, TAG, {})
        profile = member_profile(await self.profiles.local_profile(user_id))
        drafts = []
        if membership is None or membership.membership not in _INVITED_OR_JOINED:
            drafts.append(_member(notices_user, user_id, event_types.INVITE, profile))
        if self.settings.auto_join:
            drafts.append(_member(user_id, user_id, event_types.JOIN, profile))
        await self.appender.append(room_id, drafts)

    def _initial_events(self, notices_user: UserID, rules: RoomVersion) -> list[Draft]:
        settings = self.settings
        levels = {**default_power_levels(rules, notices_user, PRIVATE_CHAT), "users_default": -10}
        profile = member_profile(
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
            Draft(event_types.CREATE, notices_user, {"m.federate": False}, ""),
            _member(notices_user, notices_user, event_types.JOIN, profile),
            *(Draft(event_type, notices_user, content, "") for event_type, content in state),
        ]


def _member(sender: UserID, user_id: UserID, membership: str, profile: Mapping[str, str]) -> Draft:
    content = {**profile, "membership": membership}
    return Draft(event_types.MEMBER, sender, content, user_id)
