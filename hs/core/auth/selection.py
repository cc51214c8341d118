"""Auth events selection: the state events that an event must cite in `auth_events`.

Spec: server-server API, Auth events selection; rooms/v11, Authorisation rules, step 2 (rooms/v12:
    step 3).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hs.core.errors import Forbidden
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.versions import RoomVersion

_NEEDS_JOIN_RULES = (types.JOIN, types.INVITE, types.KNOCK)


def auth_types_for_event(
    rules: RoomVersion,
    event_type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
) -> list[StateKey]:
    """Return the keys of the room state that an event cites as auth events, without duplicates.

    In room version 12 the create event is not cited, but the authorisation rules need it all the
    same: see `auth_state_types`.
    """
    if event_type == types.CREATE:
        return []
    keys: list[StateKey] = [] if rules.room_id_is_create_hash else [types.CREATE_KEY]
    keys.append(types.POWER_LEVELS_KEY)
    keys.append((types.MEMBER, sender))
    if event_type == types.MEMBER and state_key is not None:
        _add_for_member(keys, rules, state_key, content)
    return keys


def auth_state_types(
    rules: RoomVersion,
    event_type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
) -> list[StateKey]:
    """Return the keys of the room state that `check_auth` reads for an event."""
    keys = auth_types_for_event(rules, event_type, sender, state_key, content)
    if rules.room_id_is_create_hash and event_type != types.CREATE:
        keys.append(types.CREATE_KEY)
    return keys


def check_auth_events_selection(
    event: Event, auth_events: Iterable[Event], rejected: Collection[EventID] = ()
) -> None:
    """Check that an event cites the right auth events.

    `rejected` contains the IDs of cited events that this server has rejected.

    Raises: Forbidden.
    """
    rules = event.rules
    if event.type == types.CREATE:
        if event.auth_events:
            raise Forbidden("m.room.create must not have auth_events")
        return
    expected = set(
        auth_types_for_event(rules, event.type, event.sender, event.state_key, event.content)
    )
    seen: set[StateKey] = set()
    for cited in auth_events:
        key = (cited.type, cited.state_key or "")
        # Step 2.1
        if key in seen:
            raise Forbidden(f"auth_events contains {key} twice")
        seen.add(key)
        # Step 2.2
        if cited.state_key is None or key not in expected:
            raise Forbidden(f"auth_events contains {key}, which must not be cited by this event")
        # Step 2.3
        if cited.event_id in rejected:
            raise Forbidden(f"auth_events contains {cited.event_id}, which was rejected")
        # Step 2.5
        if cited.room_id != event.room_id:
            raise Forbidden(f"auth_events contains {cited.event_id}, which is of another room")
    # Step 2.4
    if not rules.room_id_is_create_hash and types.CREATE_KEY not in seen:
        raise Forbidden("auth_events must contain m.room.create")


def _add_for_member(
    keys: list[StateKey], rules: RoomVersion, target: str, content: Mapping[str, Any]
) -> None:
    membership = content.get("membership")
    if target != keys[-1][1]:
        keys.append((types.MEMBER, target))
    if membership in _NEEDS_JOIN_RULES:
        keys.append(types.JOIN_RULES_KEY)
    if membership == types.INVITE:
        token = third_party_token(content)
        if token is not None:
            keys.append((types.THIRD_PARTY_INVITE, token))
    if membership == types.JOIN and rules.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and (types.MEMBER, authoriser) not in keys:
            keys.append((types.MEMBER, authoriser))


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """Return the token of the third-party invite that an invite refers to, or None."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    token = signed.get("token") if isinstance(signed, Mapping) else None
    return token if isinstance(token, str) else None
