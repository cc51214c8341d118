"""The authorisation rules for m.room.member: joins, invites, leaves, kicks, bans and knocks.

Spec: rooms/v11, Authorisation rules, step 4 (rooms/v12: step 5; rooms/v1: step 5).
"""

from collections.abc import Mapping
from typing import Any

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.third_party import check_third_party_invite
from hs.core.errors import Forbidden
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey

State = Mapping[StateKey, Event]


def check_member(event: Event, state: State, create: Event, power: PowerLevels) -> None:
    """Check a change of membership against the room's state.

    Step 4.2, the signature of the server that authorised a restricted join, is checked with the
    event's other signatures: see `required_signers`.

    Raises: Forbidden.
    """
    # Step 4.1
    membership = event.content.get("membership")
    if event.state_key is None or not isinstance(membership, str):
        raise Forbidden("m.room.member must have a state_key and a membership")
    target = event.state_key
    # Steps 4.3 to 4.7
    if membership == types.JOIN:
        _check_join(event, target, state, create, power)
    elif membership == types.INVITE:
        _check_invite(event, target, state, power)
    elif membership == types.LEAVE:
        _check_leave(event, target, state, power)
    elif membership == types.BAN:
        _check_ban(event, target, state, power)
    elif membership == types.KNOCK and event.rules.knocking:
        _check_knock(event, target, state)
    else:
        # Step 4.8
        raise Forbidden(f"Unknown membership {membership!r}")


def membership_in(state: State, user_id: str) -> str | None:
    """Return a user's membership in a room state, or None if the user has no m.room.member."""
    member = state.get((types.MEMBER, user_id))
    if member is None:
        return None
    membership = member.content.get("membership")
    return membership if isinstance(membership, str) else None


def join_rule_in(state: State) -> str:
    """Return the join rule of a room state; the default is `invite`."""
    rules = state.get(types.JOIN_RULES_KEY)
    if rules is None or "join_rule" not in rules.content:
        return types.RULE_INVITE
    rule = rules.content["join_rule"]
    # A rule that is not a string is treated as an unknown rule, under which nobody can join.
    return rule if isinstance(rule, str) else ""


def _check_join(event: Event, target: str, state: State, create: Event, power: PowerLevels) -> None:
    rules = event.rules
    # Step 4.3.1
    if event.prev_events == (create.event_id,):
        creator = create.sender if rules.implicit_creator else create.content.get("creator")
        if target == creator:
            return
    # Step 4.3.2
    if event.sender != target:
        raise Forbidden("You cannot join on behalf of another user")
    # Step 4.3.3
    membership = membership_in(state, target)
    if membership == types.BAN:
        raise Forbidden("You are banned from this room")
    # Steps 4.3.4 to 4.3.7
    rule = join_rule_in(state)
    if rule == types.RULE_PUBLIC:
        return
    restricted = (rule == types.RULE_RESTRICTED and rules.restricted_joins) or (
        rule == types.RULE_KNOCK_RESTRICTED and rules.knock_restricted
    )
    by_invite = rule == types.RULE_INVITE or (rule == types.RULE_KNOCK and rules.knocking)
    if not restricted and not by_invite:
        raise Forbidden(f"Nobody can join under the join rule {rule!r}")
    if membership in (types.JOIN, types.INVITE):
        return
    if not restricted:
        raise Forbidden("You are not invited to this room")
    _check_authorised_join(event.content, state, power)


def _check_authorised_join(content: Mapping[str, Any], state: State, power: PowerLevels) -> None:
    # Step 4.3.5.2
    authoriser = content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str):
        raise Forbidden("You are not invited, and no member of the room authorised your join")
    if membership_in(state, authoriser) != types.JOIN:
        raise Forbidden(f"{authoriser}, who authorised your join, is not in the room")
    if power.of_user(authoriser) < power.invite:
        raise Forbidden(f"{authoriser}, who authorised your join, lacks the power to invite")


def _check_invite(event: Event, target: str, state: State, power: PowerLevels) -> None:
    # Step 4.4.1
    if "third_party_invite" in event.content:
        if membership_in(state, target) == types.BAN:
            raise Forbidden(f"{target} is banned from the room")
        check_third_party_invite(event, target, state)
        return
    # Step 4.4.2
    _check_sender_joined(event, state)
    # Step 4.4.3
    membership = membership_in(state, target)
    if membership == types.JOIN:
        raise Forbidden(f"{target} is already in the room")
    if membership == types.BAN:
        raise Forbidden(f"{target} is banned from the room")
    # Steps 4.4.4 and 4.4.5
    if power.of_user(event.sender) < power.invite:
        raise Forbidden(f"Inviting requires power level {power.invite}")


def _check_leave(event: Event, target: str, state: State, power: PowerLevels) -> None:
    membership = membership_in(state, target)
    # Step 4.5.1
    if event.sender == target:
        if membership in (types.INVITE, types.JOIN):
            return
        if membership == types.KNOCK and event.rules.knocking:
            return
        raise Forbidden("You are not in this room")
    # Step 4.5.2
    _check_sender_joined(event, state)
    # Step 4.5.3
    sender_power = power.of_user(event.sender)
    if membership == types.BAN and sender_power < power.ban:
        raise Forbidden(f"Unbanning requires power level {power.ban}")
    # Steps 4.5.4 and 4.5.5
    if sender_power < power.kick:
        raise Forbidden(f"Kicking requires power level {power.kick}")
    if power.of_user(target) >= sender_power:
        raise Forbidden(f"You cannot kick {target}, whose power level is not below yours")


def _check_ban(event: Event, target: str, state: State, power: PowerLevels) -> None:
    # Step 4.6.1
    _check_sender_joined(event, state)
    # Steps 4.6.2 and 4.6.3
    sender_power = power.of_user(event.sender)
    if sender_power < power.ban:
        raise Forbidden(f"Banning requires power level {power.ban}")
    if power.of_user(target) >= sender_power:
        raise Forbidden(f"You cannot ban {target}, whose power level is not below yours")


def _check_knock(event: Event, target: str, state: State) -> None:
    # Step 4.7.1
    rule = join_rule_in(state)
    knockable = rule == types.RULE_KNOCK or (
        rule == types.RULE_KNOCK_RESTRICTED and event.rules.knock_restricted
    )
    if not knockable:
        raise Forbidden("The join rule of this room does not allow knocking")
    # Step 4.7.2
    if event.sender != target:
        raise Forbidden("You cannot knock on behalf of another user")
    # Steps 4.7.3 and 4.7.4
    membership = membership_in(state, target)
    if membership in (types.BAN, types.INVITE, types.JOIN):
        raise Forbidden(f"You cannot knock: your membership is {membership}")


def _check_sender_joined(event: Event, state: State) -> None:
    if membership_in(state, event.sender) != types.JOIN:
        raise Forbidden(f"{event.sender} is not in the room")
