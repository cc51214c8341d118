"""Replace a room by a new one with another room version.

Rules:

- Upgrades of one room run one after the other, across processes (see `upgrade_lock`). Equal
  requests, at whichever process, return the same new room: the later one finds the replacement
  named by the tombstone, checks that it is what it would have created, and only completes what
  follows.
- A different request that waited for another upgrade fails with BadState: the tombstone has changed
  since the request began. A request that begins after an upgrade may replace it.
- The tombstone in place is read from the database, not from the feed: it may just have been written
  by another process.
- Where the room ID is the hash of the create event, the new room is created first and the tombstone
  names it. Otherwise the ID is chosen first and the tombstone sent first, so that `predecessor` can
  name the tombstone; if the creation fails, the tombstone is emptied again.
- An upgrade may stop anywhere. If the tombstone names a room that exists, repeating the request
  completes it: aliases, power levels and copied settings are set to the same values again.
  Otherwise a new room is created.
- Changes of power levels are compare-and-set and repeated, as others may change them meanwhile.

Spec: client-server API, Room Upgrades.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.auth.power_levels import DEFAULT_LEVELS, PowerLevels, creators_of, read_level
from hs.core.canonical_json import JsonObject
from hs.core.errors import BadState, Forbidden, MatrixError, NotFound
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID, parse_user_id
from hs.core.requester import Requester
from hs.core.versions import RoomVersion, room_version
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.directory.aliases import LocalAliases
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.event_builder import random_opaque
from hs.services.rooms.creation.upgrade_lock import UpgradeLock
from hs.services.rooms.membership.room_succession import (
    RoomSuccession,
    predecessor_of,
    successor_in,
)
from hs.services.rooms.profiles.member_profiles import member_profile
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.auth_state import AuthState, AuthStateReader
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database
from hs.storage.rooms import rooms
from hs.storage.rooms import state as stored_state

COPIED_TYPES: Final = (
    event_types.JOIN_RULES,
    event_types.HISTORY_VISIBILITY,
    event_types.GUEST_ACCESS,
    event_types.SERVER_ACL,
    event_types.ENCRYPTION,
    event_types.NAME,
    event_types.AVATAR,
    event_types.TOPIC,
    event_types.CANONICAL_ALIAS,
)
MAX_COPIED: Final = 2000  # bans, children of a space
MAX_LEVEL_BEFORE_12: Final = 100
ATTEMPTS: Final = 5  # if others change the power levels at the same time

_SPACE: Final = "m.space"
_MAPS_OF_LEVELS: Final = ("users", "events", "notifications")
_CANONICAL_KEY: Final = (event_types.CANONICAL_ALIAS, "")
_TOMBSTONE_KEY: Final = (event_types.TOMBSTONE, "")


@attrs.frozen
class _UpgradeRequest:
    """The arguments of an upgrade."""

    user_id: UserID
    room_id: RoomID
    version: str
    rules: RoomVersion
    creators: tuple[UserID, ...]

    def is_satisfied_by(self, new: AuthState) -> bool:
        """Return whether a room is what the request would create, and the user is in it."""
        content = new.create.content
        return (
            new.create.sender == self.user_id
            and new.membership(self.user_id) == event_types.JOIN
            and new.rules is self.rules
            and predecessor_of(new.create) == self.room_id
            and content.get("additional_creators", []) == self.additional_creators
        )

    @property
    def additional_creators(self) -> list[UserID]:
        """The additional creators to be named in the create event."""
        return list(self.creators) if self.rules.privileged_creators else []


@attrs.frozen(eq=False, kw_only=True)
class RoomUpgrade:
    """Upgrades rooms for clients."""

    appender: RoomAppender
    auth_states: AuthStateReader
    states: StateStore
    events: EventStore
    aliases: LocalAliases
    profiles: Profiles
    succession: RoomSuccession
    database: Database
    lock: UpgradeLock

    async def upgrade(
        self,
        requester: Requester,
        room_id: RoomID,
        version: str,
        additional_creators: Sequence[str] = (),
    ) -> RoomID:
        """Replace a room; return the new room's ID. Repeated requests return the same ID.

        Raises: UnsupportedRoomVersion, NotFound, Forbidden, InvalidParam; BadState, if another
            request replaced the room meanwhile.
        """
        check_may_act(requester)
        user_id = requester.user_id
        rules = room_version(version)
        old = await self._check_may_upgrade(user_id, room_id)
        creators = dict.fromkeys(parse_user_id(each) for each in additional_creators)
        request = _UpgradeRequest(user_id, room_id, version, rules, tuple(creators))
        # Upgrading a large room takes long, and clients repeat the request when it times out.
        return await self.lock.run(room_id, self._upgrade, request, old)

    async def _check_may_upgrade(self, user_id: UserID, room_id: RoomID) -> AuthState:
        old = await self.auth_states.read(room_id, members=(user_id,), more=(_TOMBSTONE_KEY,))
        if old is None:
            raise NotFound("Room not found")
        if not old.may_send_state(user_id, event_types.TOMBSTONE):
            raise Forbidden("You do not have permission to upgrade this room")
        return old

    async def _upgrade(self, request: _UpgradeRequest, old: AuthState) -> RoomID:
        tombstone_id, new = await self._replacement(request)
        if new is not None and request.is_satisfied_by(new):
            new_room = new.room_id
        else:
            known = old.events.get(_TOMBSTONE_KEY)
            if new is not None and tombstone_id != (None if known is None else known.event_id):
                raise BadState("The room was upgraded by another request")
            # Read again: other upgrades may have run before this one.
            new_room = await self._create(
                request, await self._check_may_upgrade(request.user_id, request.room_id)
            )
        await self._close(request.user_id, request.room_id)
        await self.aliases.move(request.room_id, new_room)
        new = await self.auth_states.read(new_room)
        if new is not None:
            await self.succession.follow(request.user_id, new.create)
        return new_room

    async def _replacement(
        self, request: _UpgradeRequest
    ) -> tuple[EventID | None, AuthState | None]:
        """Return the current tombstone, and the room that it names, if that is stored here."""
        # Not from the feed: the tombstone may just have been written by another process.
        current = await self.database.read(
            stored_state.load_current_of_keys, request.room_id, (_TOMBSTONE_KEY,)
        )
        if not current:
            return None, None
        tombstone_id = EventID(current[_TOMBSTONE_KEY])
        tombstone = await self.events.get_one(tombstone_id)
        room_id = None if tombstone is None else successor_in(content_of(tombstone))
        if room_id is None:
            return tombstone_id, None
        return tombstone_id, await self.auth_states.read(room_id, members=(request.user_id,))

    async def _create(self, request: _UpgradeRequest, old: AuthState) -> RoomID:
        user_id, room_id, version = request.user_id, request.room_id, request.version
        state = await self._state_to_copy(old)
        content = _create_content(old, request.additional_creators)
        profile = member_profile(await self.profiles.local_profile(user_id))
        drafts = _first_drafts(user_id, profile, content, old, request.rules, state)
        if not request.rules.room_id_is_create_hash:
            return await self._create_after_tombstone(user_id, room_id, version, drafts)
        content["predecessor"].update(await self._last_event(room_id))
        new_room = (await self.appender.create(version, drafts))[0].room_id
        await self._send_tombstone(user_id, room_id, new_room)
        return new_room

    async def _last_event(self, room_id: RoomID) -> JsonObject:
        head = await self.database.read(rooms.head, room_id)
        last = [] if head is None else orjson.loads(head.extremities)
        return {"event_id": last[0]} if last else {}

    async def _create_after_tombstone(
        self, user_id: UserID, room_id: RoomID, version: str, drafts: list[Draft]
    ) -> RoomID:
        """Create a room whose ID is chosen first, so that both rooms can name each other."""
        server_name = user_id[user_id.index(":") + 1 :]
        new_room = RoomID(f"!{random_opaque()}:{server_name}")
        tombstone = await self._send_tombstone(user_id, room_id, new_room)
        content = {
            **drafts[0].content,
            "predecessor": {"room_id": room_id, "event_id": tombstone},
        }
        create = attrs.evolve(drafts[0], content=content, new_room_id=new_room)
        try:
            await self.appender.create(version, [create, *drafts[1:]])
        except MatrixError:
            # The tombstone must not name a room that does not exist.
            await self._try_append(room_id, Draft(event_types.TOMBSTONE, user_id, {}, ""))
            raise
        return new_room

    async def _state_to_copy(self, old: AuthState) -> Mapping[StateKey, Event]:
        current = await self.states.current(old.room_id)
        keys = [key for key in current if _may_be_copied(key, old)]
        stored = await self.events.get(current[key] for key in keys)
        events: dict[StateKey, Event] = {}
        for key in keys:
            if current[key] in stored:
                events[key] = stored[current[key]].effective_event
        return events

    async def _send_tombstone(self, user_id: UserID, room_id: RoomID, new_room: RoomID) -> EventID:
        content = {"body": "This room has been replaced", "replacement_room": new_room}
        tombstone = Draft(event_types.TOMBSTONE, user_id, content, "")
        return (await self.appender.append(room_id, [tombstone]))[0].event_id

    async def _close(self, user_id: UserID, room_id: RoomID) -> None:
        old = await self.auth_states.read(room_id, more=(_CANONICAL_KEY,))
        alias = None if old is None else old.events.get(_CANONICAL_KEY)
        if alias is not None and alias.content:
            empty = Draft(event_types.CANONICAL_ALIAS, user_id, {}, "", keep_if_same=True)
            await self._try_append(room_id, empty)
        for _ in range(ATTEMPTS):
            if await self._restrict_sending(user_id, room_id):
                return

    async def _restrict_sending(self, user_id: UserID, room_id: RoomID) -> bool:
        """Raise a room's power levels; return False if they have changed meanwhile."""
        room = await self.auth_states.read(room_id)
        levels = None if room is None else room.events.get(event_types.POWER_LEVELS_KEY)
        if room is None or levels is None:
            return True
        content = silencing_levels(levels.content, room.rules)
        if content == levels.content:
            return True
        draft = Draft(event_types.POWER_LEVELS, user_id, content, "", replaces=levels.event_id)
        try:
            await self._try_append(room_id, draft)
        except BadState:
            return False
        return True

    async def _try_append(self, room_id: RoomID, draft: Draft) -> None:
        try:
            await self.appender.append(room_id, [draft])
        except Forbidden:
            # The tombstone suffices; the user lacks the power for the rest.
            return


def _create_content(old: AuthState, creators: Sequence[UserID]) -> JsonObject:
    content: JsonObject = {
        key: old.create.content[key] for key in ("type", "m.federate") if key in old.create.content
    }
    content["predecessor"] = {"room_id": old.room_id}
    if creators:
        content["additional_creators"] = list(creators)
    return content


def silencing_levels(content: Mapping[str, Any], rules: RoomVersion) -> JsonObject:
    """Return power levels at which ordinary members can neither send nor invite."""
    users_default = read_level(content.get("users_default"), rules) or 0
    level = max(50, users_default + 1)
    raised = dict(content)
    for name in ("events_default", "invite"):
        current = read_level(content.get(name), rules) or 0
        raised[name] = max(current, level)
    return raised


def new_power_levels(old: AuthState, rules: RoomVersion, creators: Iterable[str]) -> JsonObject:
    """Return the power levels of a room, translated to another room version.

    `creators` are those of the new room.
    """
    event = old.events.get(event_types.POWER_LEVELS_KEY)
    content = _with_integers(event.content if event is not None else {}, old.rules)
    users = content.setdefault("users", {})
    events = content.setdefault("events", {})
    if event is None or old.rules.privileged_creators:
        # Creators whose power was implicit get the highest level that can be written.
        for creator in creators_of(old.create):
            users[creator] = MAX_LEVEL_BEFORE_12
    if rules.privileged_creators:
        content["users"] = {
            user_id: users[user_id] for user_id in users if user_id not in set(creators)
        }
        least = rules.default_tombstone_level or 0
        state_default = content.get("state_default", DEFAULT_LEVELS["state_default"])
        if not old.rules.privileged_creators:
            events[event_types.TOMBSTONE] = max(least, state_default + 1)
    elif events.get(event_types.TOMBSTONE, 0) > MAX_LEVEL_BEFORE_12:
        events[event_types.TOMBSTONE] = MAX_LEVEL_BEFORE_12
    return content


def _with_integers(content: Mapping[str, Any], rules: RoomVersion) -> JsonObject:
    """Return power levels with integers only, as newer room versions require."""
    levels: JsonObject = dict(content)
    for name in DEFAULT_LEVELS:
        if name in levels:
            level = read_level(levels[name], rules)
            if level is None:
                del levels[name]
            else:
                levels[name] = level
    for name in _MAPS_OF_LEVELS:
        entries = levels.pop(name, None)
        if isinstance(entries, Mapping):
            parsed = {key: read_level(level, rules) for key, level in entries.items()}
            levels[name] = {key: level for key, level in parsed.items() if level is not None}
    return levels


def _may_be_copied(key: StateKey, old: AuthState) -> bool:
    event_type, state_key = key
    if event_type == event_types.SPACE_CHILD:
        return old.create.content.get("type") == _SPACE
    if event_type == event_types.MEMBER:
        return True
    return event_type in COPIED_TYPES and state_key == ""


def _first_drafts(
    user_id: UserID,
    profile: Mapping[str, str],
    create: JsonObject,
    old: AuthState,
    rules: RoomVersion,
    state: Mapping[StateKey, Event],
) -> list[Draft]:
    creators = (user_id, *create.get("additional_creators", ()))
    levels = new_power_levels(old, rules, creators)
    first = levels if rules.privileged_creators else _with_full_power(levels, user_id)
    power = PowerLevels.of_content(
        first, rules, frozenset(creators) if rules.privileged_creators else frozenset()
    )
    joined = {**profile, "membership": event_types.JOIN}
    drafts = [
        Draft(event_types.CREATE, user_id, create, ""),
        Draft(event_types.MEMBER, user_id, joined, user_id),
        Draft(event_types.POWER_LEVELS, user_id, first, ""),
        *(
            Draft(event_type, user_id, content, "")
            for event_type in COPIED_TYPES
            if (content := _copied_content(rules, event_type, state.get((event_type, ""))))
            is not None
        ),
        *_copied_members_and_children(user_id, state, power),
    ]
    if first != levels:
        drafts.append(Draft(event_types.POWER_LEVELS, user_id, levels, ""))
    return drafts


def _with_full_power(levels: JsonObject, user_id: UserID) -> JsonObject:
    """Return levels at which a user may do everything, for the time of copying."""
    needed = [
        *levels["users"].values(),
        *levels["events"].values(),
        *(levels.get(name, default) for name, default in DEFAULT_LEVELS.items()),
    ]
    return {**levels, "users": {**levels["users"], user_id: max(needed)}}


def _copied_content(rules: RoomVersion, event_type: str, event: Event | None) -> JsonObject | None:
    if event is not None:
        return _translate(rules, event_type, event.content)
    # Without m.room.guest_access guests are forbidden as well; the event makes that explicit.
    return {"guest_access": "forbidden"} if event_type == event_types.GUEST_ACCESS else None


def _translate(rules: RoomVersion, event_type: str, content: Mapping[str, Any]) -> JsonObject:
    """Translate content to the new room version's rules where possible."""
    join_rule = content.get("join_rule")
    is_unknown = event_type == event_types.JOIN_RULES and (
        (join_rule == event_types.RULE_KNOCK and not rules.knocking)
        or (join_rule == event_types.RULE_RESTRICTED and not rules.restricted_joins)
        or (join_rule == event_types.RULE_KNOCK_RESTRICTED and not rules.knock_restricted)
    )
    return {**content, "join_rule": event_types.RULE_INVITE} if is_unknown else dict(content)


def _copied_members_and_children(
    user_id: UserID, state: Mapping[StateKey, Event], power: PowerLevels
) -> Iterable[Draft]:
    own = power.of_user(user_id)
    copied = 0
    for (event_type, state_key), event in state.items():
        content = dict(event.content)
        if event_type == event_types.MEMBER:
            # Members cannot be copied, but bans are.
            if content.get("membership") != event_types.BAN or power.of_user(state_key) >= own:
                continue
            content = {key: content[key] for key in ("membership", "reason") if key in content}
        elif event_type != event_types.SPACE_CHILD or not content.get("via"):
            continue
        copied += 1
        if copied > MAX_COPIED:
            return
        yield Draft(event_type, user_id, content, state_key)
