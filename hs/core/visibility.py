"""History visibility: which users and servers may see an event.

Spec: client-server API, Room History Visibility.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import attrs

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.ids import UserID


class HistoryVisibility(Enum):
    """The values of `m.room.history_visibility`."""

    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"


@attrs.frozen
class VisibilityContext:
    """The facts that decide whether a user may see one event.

    `visibility` and `membership` are those of the state before the event; `joined_since` says
    whether the user was joined at any time since the event, or is now.
    """

    visibility: HistoryVisibility = HistoryVisibility.SHARED
    membership: str = types.LEAVE
    joined_since: bool = False


def visibility_in(content: Mapping[str, Any] | None) -> HistoryVisibility:
    """Return the value of `m.room.history_visibility`; `shared` if it is absent or unknown."""
    value = content.get("history_visibility") if content is not None else None
    try:
        return HistoryVisibility(value)
    except ValueError:
        return HistoryVisibility.SHARED


def may_see(event: Event, user_id: UserID, view: VisibilityContext) -> bool:
    """Return whether a user may see an event of the room's history.

    If the event itself changes the history visibility or the user's own membership, the user sees
    it if either the state before or the state after it allows that.
    """
    if _allows(view):
        return True
    if event.type == types.HISTORY_VISIBILITY and event.state_key == "":
        return _allows(attrs.evolve(view, visibility=visibility_in(event.content)))
    if event.type == types.MEMBER and event.state_key == user_id:
        after = membership_at(event, user_id, view.membership)
        return _allows(attrs.evolve(view, membership=after))
    return False


def membership_at(event: Event, user_id: UserID, before: str | None) -> str:
    """Return a user's membership at an event, including the change by the event itself.

    `before` is the membership in the state before the event, None if there was none.
    Spec: `unsigned.membership`.
    """
    if event.type == types.MEMBER and event.state_key == user_id:
        membership = event.content.get("membership")
        if isinstance(membership, str):
            return membership
    return before or types.LEAVE


def server_may_see(event: Event, visibility: HistoryVisibility, memberships: Iterable[str]) -> bool:
    """Return whether an event may be sent to a server that is in the room now.

    `visibility` and `memberships`, those of the server's users, are of the state before the event.
    """
    settings = {visibility}
    if event.type == types.HISTORY_VISIBILITY and event.state_key == "":
        settings.add(visibility_in(event.content))
    if settings & {HistoryVisibility.WORLD_READABLE, HistoryVisibility.SHARED}:
        return True
    sufficient = {types.JOIN}
    if HistoryVisibility.INVITED in settings:
        sufficient.add(types.INVITE)
    return any(membership in sufficient for membership in memberships)


def _allows(view: VisibilityContext) -> bool:
    # Steps 1 to 5 of the specification.
    if view.visibility is HistoryVisibility.WORLD_READABLE:
        return True
    if view.membership == types.JOIN:
        return True
    if view.visibility is HistoryVisibility.SHARED and view.joined_since:
        return True
    return view.visibility is HistoryVisibility.INVITED and view.membership == types.INVITE
