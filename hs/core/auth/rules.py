"""The authorisation rules: whether an event is allowed in a given room state.

Steps are numbered as in room version 11. Version 12 inserts a step before step 2; versions before 6
have the rule for m.room.aliases as step 4.

Spec: rooms/v11, Authorisation rules.
"""

from collections.abc import Mapping

from hs.core.auth.member_rules import check_member, membership_in
from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.power_rules import check_power_levels
from hs.core.auth.redaction_rules import check_redaction
from hs.core.errors import Forbidden
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import is_user_id, server_in, server_of
from hs.core.versions import ROOM_VERSIONS

State = Mapping[StateKey, Event]


def check_auth(event: Event, state: State, power: PowerLevels | None = None) -> None:
    """Check that an event is allowed in a room state.

    `state` must contain the events of all keys of `auth_state_types` that the room's state has; in
    room version 12 that includes the create event, which must not be a rejected one. `power` are
    the state's power levels, if the caller has parsed them already.

    The auth events that the event cites are checked by `check_auth_events_selection`.

    Raises: Forbidden.
    """
    # Step 1
    if event.type == types.CREATE:
        _check_create(event)
        return
    create = state.get(types.CREATE_KEY)
    if create is None:
        raise Forbidden("The room has no create event")
    # Step 2 of room version 12
    if event.rules.room_id_is_create_hash and event.room_id[1:] != create.event_id[1:]:
        raise Forbidden("room_id does not match the create event")
    # Step 3
    if create.content.get("m.federate") is False:
        _check_same_server(event, create)
    if event.type == types.ALIASES and event.rules.aliases_rule:
        _check_aliases(event)
        return
    if power is None:
        power = PowerLevels.of(state.get(types.POWER_LEVELS_KEY), create, event.rules)
    # Step 4
    if event.type == types.MEMBER:
        check_member(event, state, create, power)
        return
    _check_sending(event, state, power)
    # Step 9
    if event.type == types.POWER_LEVELS:
        check_power_levels(event, state.get(types.POWER_LEVELS_KEY), create, power)
    # Step 11 of room versions 1 and 2
    if event.type == types.REDACTION and event.rules.redaction_auth_rule:
        check_redaction(event, power)


def _check_sending(event: Event, state: State, power: PowerLevels) -> None:
    # Step 5
    if membership_in(state, event.sender) != types.JOIN:
        raise Forbidden(f"{event.sender} is not in the room")
    sender_power = power.of_user(event.sender)
    # Step 6
    if event.type == types.THIRD_PARTY_INVITE:
        if sender_power < power.invite:
            raise Forbidden(f"Inviting requires power level {power.invite}")
        return
    # Step 7
    required = power.needed(event.type, event.state_key)
    if sender_power < required:
        raise Forbidden(
            f"Sending {event.type} requires power level {required}, yours is {sender_power}"
        )
    # Step 8
    state_key = event.state_key
    if state_key is not None and state_key.startswith("@") and state_key != event.sender:
        raise Forbidden("A state_key that begins with @ must be the sender's user ID")


def _check_create(event: Event) -> None:
    rules = event.rules
    # Step 1.1
    if event.prev_events:
        raise Forbidden("m.room.create must not have prev_events")
    # Step 1.2
    if rules.room_id_is_create_hash:
        if "room_id" in event.pdu:
            raise Forbidden("m.room.create must not have a room_id in this room version")
    elif server_in(event.room_id) != server_of(event.sender):
        raise Forbidden("The domain of room_id must be the sender's server")
    # Step 1.3
    version = event.content.get("room_version", "1")
    if not isinstance(version, str) or version not in ROOM_VERSIONS:
        raise Forbidden("content.room_version must be a known room version")
    # Step 1.4 (of room version 12, then of versions before 11)
    if rules.privileged_creators and "additional_creators" in event.content:
        additional = event.content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(user) for user in additional):
            raise Forbidden("additional_creators must be a list of user IDs")
    if not rules.implicit_creator and "creator" not in event.content:
        raise Forbidden("m.room.create must have content.creator in this room version")


def _check_same_server(event: Event, create: Event) -> None:
    if server_of(event.sender) != server_of(create.sender):
        raise Forbidden("This room is not federated")


def _check_aliases(event: Event) -> None:
    # Step 4 of room versions 1 to 5
    if event.state_key is None or event.state_key != server_of(event.sender):
        raise Forbidden("The state_key of m.room.aliases must be the sender's server name")
