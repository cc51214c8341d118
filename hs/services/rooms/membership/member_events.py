"""Member events that clients ask for: their content, and the rooms that they are appended to.

The memory of this process may be behind the process that owns the room. What depends on the present
membership is decided by the owner (`Draft.from_memberships`), or by the database, as soon as the
answer would be given without the owner.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject, check_canonical
from hs.core.errors import BadJson, Forbidden, NotFound
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.profiles.member_profiles import member_profile
from hs.services.rooms.store.auth_state import GUEST_ACCESS_KEY, AuthState, AuthStateReader
from hs.services.rooms.store.memberships import LocalMembership, Memberships

AUTHORISER: Final = "join_authorised_via_users_server"

_RESERVED_FIELDS: Final = frozenset(
    {"membership", AUTHORISER, "third_party_invite", "third_party_signed"}
)


@attrs.frozen(eq=False, kw_only=True)
class MemberEvents:
    """Builds and appends member events; `owns` returns whether this process owns a room."""

    appender: RoomAppender
    auth_states: AuthStateReader
    memberships: Memberships
    profiles: Profiles
    owns: Callable[[RoomID], bool]

    async def append(self, room_id: RoomID, *drafts: Draft) -> EventID:
        """Append events to a room and return the last one. Raises: Forbidden."""
        try:
            appended = await self.appender.append(room_id, list(drafts))
        except NotFound as error:
            raise Forbidden("You are not in this room") from error
        return appended[-1].event_id

    async def own_membership(self, room_id: RoomID, user_id: UserID) -> LocalMembership | None:
        """Return a local user's membership as the owner of the room has committed it."""
        if self.owns(room_id):
            return await self.memberships.local_membership(room_id, user_id)
        return await self.memberships.look_again(room_id, user_id)

    async def read_local_room(
        self, room_id: RoomID, user_id: UserID | None = None
    ) -> AuthState | None:
        """Read a room that can be joined without another server; None for other rooms."""
        members = () if user_id is None else (user_id,)
        auth_state = await self.auth_states.read(room_id, members=members, more=(GUEST_ACCESS_KEY,))
        if auth_state is None:
            return None
        present = await self.memberships.present(room_id)
        return None if present.joined and not present.local else auth_state

    async def with_profile(self, user_id: UserID, content: JsonObject) -> JsonObject:
        """Return a content with the display name and avatar of a local user."""
        return {**member_profile(await self.profiles.local_profile(user_id)), **content}

    async def accept_third_party_invite(
        self, room_id: RoomID, user_id: UserID, signed: JsonObject
    ) -> Draft:
        """Return the invite that replaces a third-party invite; the auth rules verify it.

        Raises: BadJson, Forbidden.
        """
        token = signed.get("token")
        if not isinstance(token, str) or "\0" in token:
            raise BadJson("third_party_signed.token must be a string")
        key = (event_types.THIRD_PARTY_INVITE, token)
        auth_state = await self.auth_states.read(room_id, more=(key,))
        third_party_invite = None if auth_state is None else auth_state.events.get(key)
        if third_party_invite is None:
            raise Forbidden("The room has no such third-party invite")
        name = third_party_invite.content.get("display_name")
        content = await self.with_profile(user_id, member_content(event_types.INVITE, None))
        content["third_party_invite"] = {
            "display_name": name if isinstance(name, str) else "",
            "signed": signed,
        }
        return Draft(event_types.MEMBER, third_party_invite.sender, content, user_id)


def third_party_event(
    room_id: RoomID, inviter: UserID, user_id: UserID, signed: JsonObject
) -> JsonObject:
    """Return the invite that a user asks the inviter's server for, by a third-party invite.

    Spec: server-server API, PUT exchange_third_party_invite.
    """
    third_party_invite = {"display_name": "", "signed": signed}
    content = {"membership": event_types.INVITE, "third_party_invite": third_party_invite}
    return {
        "type": event_types.MEMBER,
        "room_id": room_id,
        "sender": inviter,
        "state_key": user_id,
        "content": content,
    }


def own_content(requested: JsonObject) -> JsonObject:
    """Return what users may set in their own member events, from a request body or a content.

    Raises: BadJson, if the content is not canonical JSON.
    """
    content = {key: requested[key] for key in requested if key not in _RESERVED_FIELDS}
    check_canonical(content)
    return content


def member_content(
    membership: str, reason: str | None, more: Mapping[str, Any] | None = None
) -> JsonObject:
    """Return the content of a member event; `more` are further members of it."""
    content: JsonObject = {**(more or {}), "membership": membership}
    if reason is not None:
        content["reason"] = reason
    return content


def own_draft(user_id: UserID, content: JsonObject, at_ms: int | None = None) -> Draft:
    """Return the member event that a user sends about themselves."""
    return member_draft(user_id, content, user_id, at_ms)


def member_draft(sender: UserID, content: JsonObject, user_id: UserID, at_ms: int | None) -> Draft:
    """Return the member event that a user sends about another user."""
    return Draft(
        event_types.MEMBER, sender, content, user_id, origin_server_ts=at_ms, keep_if_same=True
    )
