"""Who may see which event of a room's history.

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
class Viewpoint:
    """What decides whether a user may see one event.

    `visibility` and `membership` are of the state before the event; `joined_since` tells whether
    the user has been joined at any time after the event, now included.
    """

    visibility: HistoryVisibility = HistoryVisibility.SHARED
    membership: str = types.LEAVE
    joined_since: bool = False


def visibility_in(content: Mapping[str, Any] | None) -> HistoryVisibility:
    """Read `m.room.history_visibility`; `shared` if it is absent or not understood."""
    value = content.get("history_visibility") if content is not None else None
    try:
        return HistoryVisibility(value)
    except ValueError:
        return HistoryVisibility.SHARED


def may_see(event: Event, user_id: UserID, view: Viewpoint) -> bool:
    """Tell whether a user may see an event that is part of the room's history.

    An event that changes the setting or the user's own membership is seen by what holds before
    or by what holds after it.
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
    """Give a user's membership at an event, changes by the event included.

    `before` is the membership in the state before the event, None if there was none.
    Spec: `unsigned.membership`.
    """
    if event.type == types.MEMBER and event.state_key == user_id:
        membership = event.content.get("membership")
        if isinstance(membership, str):
            return membership
    return before or types.LEAVE


def server_may_see(event: Event, visibility: HistoryVisibility, memberships: Iterable[str]) -> bool:
    """Tell whether an event may go to a server that is in the room now.

    `visibility` and `memberships`, those of the server's users, are of the state before the
    event.
    """
    settings = {visibility}
    if event.type == types.HISTORY_VISIBILITY and event.state_key == "":
        settings.add(visibility_in(event.content))
    if settings & {HistoryVisibility.WORLD_READABLE, HistoryVisibility.SHARED}:
        return True
    enough = {types.JOIN}
    if HistoryVisibility.INVITED in settings:
        enough.add(types.INVITE)
    return any(membership in enough for membership in memberships)


def _allows(view: Viewpoint) -> bool:
    # Steps 1 to 5 of the specification.
    if view.visibility is HistoryVisibility.WORLD_READABLE:
        return True
    if view.membership == types.JOIN:
        return True
    if view.visibility is HistoryVisibility.SHARED and view.joined_since:
        return True
    return view.visibility is HistoryVisibility.INVITED and view.membership == types.INVITE
