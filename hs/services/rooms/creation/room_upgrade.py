"""Replacing a room by one of another version.

Of those who ask for the same, whenever and at whichever process, all get the same room. What was
broken off is finished by who asks again; if no new room is known yet, another one is made.

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
from hs.core.events.redaction import redact
from hs.core.ids import EventID, RoomID, UserID, parse_user_id
from hs.core.requester import Requester
from hs.core.versions import RoomVersion, room_version
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.directory.aliases import Aliases
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.event_builder import random_opaque
from hs.services.rooms.creation.upgrade_lock import UpgradeTurns
from hs.services.rooms.membership.room_succession import Succession, predecessor_of, successor_in
from hs.services.rooms.profiles.member_profiles import LocalProfiles, shown
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.auth_state import Deciding, DecidingReader
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
ATTEMPTS: Final = 5  # to change what nobody else has changed meanwhile

_SPACE: Final = "m.space"
_MAPS_OF_LEVELS: Final = ("users", "events", "notifications")
_CANONICAL_KEY: Final = (event_types.CANONICAL_ALIAS, "")
_TOMBSTONE_KEY: Final = (event_types.TOMBSTONE, "")


@attrs.frozen
class _Wish:
    """What somebody asks for."""

    user_id: UserID
    room_id: RoomID
    version: str
    rules: RoomVersion
    creators: tuple[UserID, ...]

    def is_fulfilled_by(self, new: Deciding) -> bool:
        """Tell whether a room is just what is wished, and one that the user is in."""
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
        """Give whom the create event names as creators."""
        return list(self.creators) if self.rules.privileged_creators else []


@attrs.frozen(eq=False, kw_only=True)
class RoomUpgrade:
    """Upgrades rooms for clients."""

    appender: RoomAppender
    deciding: DecidingReader
    states: StateStore
    events: EventStore
    aliases: Aliases
    profiles: LocalProfiles
    succession: Succession
    database: Database
    turns: UpgradeTurns

    async def upgrade(
        self,
        requester: Requester,
        room_id: RoomID,
        version: str,
        additional_creators: Sequence[str] = (),
    ) -> RoomID:
        """Replace a room by a new one; give that one's ID, also to who asks again.

        Raises: UnsupportedRoomVersion, NotFound, Forbidden, InvalidParam; BadState, if somebody
        else replaced the room meanwhile.
        """
        check_may_act(requester)
        user_id = requester.user_id
        rules = room_version(version)
        old = await self._allowing(user_id, room_id)
        creators = dict.fromkeys(parse_user_id(one) for one in additional_creators)
        wish = _Wish(user_id, room_id, version, rules, tuple(creators))
        # Large rooms take their time, and clients that lose patience ask again.
        return await self.turns.run(room_id, self._upgrade, wish, old)

    async def _allowing(self, user_id: UserID, room_id: RoomID) -> Deciding:
        old = await self.deciding.read(room_id, members=(user_id,), more=(_TOMBSTONE_KEY,))
        if old is None:
            raise NotFound("Room not found")
        if not old.may_send_state(user_id, event_types.TOMBSTONE):
            raise Forbidden("You cannot upgrade this room")
        return old

    async def _upgrade(self, wish: _Wish, old: Deciding) -> RoomID:
        tombstone_id, new = await self._replacement(wish)
        if new is not None and wish.is_fulfilled_by(new):
            new_room = new.room_id
        else:
            seen = old.events.get(_TOMBSTONE_KEY)
            if new is not None and tombstone_id != (None if seen is None else seen.event_id):
                raise BadState("The room was upgraded by somebody else just now")
            # As it is by now: others may have had their turn before.
            new_room = await self._make(wish, await self._allowing(wish.user_id, wish.room_id))
        await self._close(wish.user_id, wish.room_id)
        await self.aliases.move(wish.room_id, new_room)
        new = await self.deciding.read(new_room)
        if new is not None:
            await self.succession.follow(wish.user_id, new.create)
        return new_room

    async def _replacement(self, wish: _Wish) -> tuple[EventID | None, Deciding | None]:
        """Find the tombstone in place, and the room it names, if that is here."""
        # Not from memory: whose turn it was before may have been another process.
        found = await self.database.read(
            stored_state.current_of_keys, wish.room_id, (_TOMBSTONE_KEY,)
        )
        if not found:
            return None, None
        tombstone_id = EventID(found[_TOMBSTONE_KEY])
        tombstone = await self.events.get_one(tombstone_id)
        room_id = None if tombstone is None else successor_in(content_of(tombstone))
        if room_id is None:
            return tombstone_id, None
        return tombstone_id, await self.deciding.read(room_id, members=(wish.user_id,))

    async def _make(self, wish: _Wish, old: Deciding) -> RoomID:
        user_id, room_id, version = wish.user_id, wish.room_id, wish.version
        state = await self._state_to_copy(old)
        content = _create_content(old, wish.additional_creators)
        profile = shown(await self.profiles.of_local(user_id))
        drafts = _first_drafts(user_id, profile, content, old, wish.rules, state)
        if not wish.rules.room_id_is_create_hash:
            return await self._create_behind_tombstone(user_id, room_id, version, drafts)
        content["predecessor"].update(await self._last_event(room_id))
        new_room = (await self.appender.create(version, drafts))[0].room_id
        await self._bury(user_id, room_id, new_room)
        return new_room

    async def _last_event(self, room_id: RoomID) -> JsonObject:
        head = await self.database.read(rooms.head, room_id)
        last = [] if head is None else orjson.loads(head.extremities)
        return {"event_id": last[0]} if last else {}

    async def _create_behind_tombstone(
        self, user_id: UserID, room_id: RoomID, version: str, drafts: list[Draft]
    ) -> RoomID:
        """Have each room name the other, where the new one's ID may be chosen beforehand."""
        server_name = user_id[user_id.index(":") + 1 :]
        new_room = RoomID(f"!{random_opaque()}:{server_name}")
        tombstone = await self._bury(user_id, room_id, new_room)
        content = {
            **drafts[0].content,
            "predecessor": {"room_id": room_id, "event_id": tombstone},
        }
        create = attrs.evolve(drafts[0], content=content, new_room_id=new_room)
        try:
            await self.appender.create(version, [create, *drafts[1:]])
        except MatrixError:
            # Nobody shall be sent to a room that there is not.
            await self._try_append(room_id, Draft(event_types.TOMBSTONE, user_id, {}, ""))
            raise
        return new_room

    async def _state_to_copy(self, old: Deciding) -> Mapping[StateKey, Event]:
        current = await self.states.current(old.room_id)
        wanted = [key for key in current if _may_be_copied(key, old)]
        stored = await self.events.get(current[key] for key in wanted)
        found: dict[StateKey, Event] = {}
        for key in wanted:
            one = stored.get(current[key])
            if one is not None:
                found[key] = one.event if one.redacted_by is None else redact(one.event)
        return found

    async def _bury(self, user_id: UserID, room_id: RoomID, new_room: RoomID) -> EventID:
        content = {"body": "This room has been replaced", "replacement_room": new_room}
        tombstone = Draft(event_types.TOMBSTONE, user_id, content, "")
        return (await self.appender.append(room_id, [tombstone]))[0].event_id

    async def _close(self, user_id: UserID, room_id: RoomID) -> None:
        old = await self.deciding.read(room_id, more=(_CANONICAL_KEY,))
        alias = None if old is None else old.events.get(_CANONICAL_KEY)
        if alias is not None and alias.content:
            none = Draft(event_types.CANONICAL_ALIAS, user_id, {}, "", keep_if_same=True)
            await self._try_append(room_id, none)
        for _ in range(ATTEMPTS):
            if await self._silence(user_id, room_id):
                return

    async def _silence(self, user_id: UserID, room_id: RoomID) -> bool:
        """Raise a room's power levels; tell whether nobody else changed them meanwhile."""
        room = await self.deciding.read(room_id)
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
            # The tombstone says enough; the rest is done by who has the power.
            return


def _create_content(old: Deciding, creators: Sequence[UserID]) -> JsonObject:
    content: JsonObject = {
        key: old.create.content[key] for key in ("type", "m.federate") if key in old.create.content
    }
    content["predecessor"] = {"room_id": old.room_id}
    if creators:
        content["additional_creators"] = list(creators)
    return content


def silencing_levels(content: Mapping[str, Any], rules: RoomVersion) -> JsonObject:
    """Give power levels by which ordinary members neither send nor invite any more."""
    users_default = read_level(content.get("users_default"), rules) or 0
    level = max(50, users_default + 1)
    raised = dict(content)
    for name in ("events_default", "invite"):
        current = read_level(content.get(name), rules) or 0
        raised[name] = max(current, level)
    return raised


def new_power_levels(old: Deciding, rules: RoomVersion, creators: Iterable[str]) -> JsonObject:
    """Give the power levels that replace a room's own under the rules of another version.

    `creators` are those of the new room.
    """
    event = old.events.get(event_types.POWER_LEVELS_KEY)
    content = _readable(event.content if event is not None else {}, old.rules)
    users = content.setdefault("users", {})
    events = content.setdefault("events", {})
    if event is None or old.rules.privileged_creators:
        # Whose power was not written down keeps what can be written.
        for creator in creators_of(old.create):
            users[creator] = MAX_LEVEL_BEFORE_12
    if rules.privileged_creators:
        content["users"] = {one: users[one] for one in users if one not in set(creators)}
        least = rules.default_tombstone_level or 0
        state_default = content.get("state_default", DEFAULT_LEVELS["state_default"])
        if not old.rules.privileged_creators:
            events[event_types.TOMBSTONE] = max(least, state_default + 1)
    elif events.get(event_types.TOMBSTONE, 0) > MAX_LEVEL_BEFORE_12:
        events[event_types.TOMBSTONE] = MAX_LEVEL_BEFORE_12
    return content


def _readable(content: Mapping[str, Any], rules: RoomVersion) -> JsonObject:
    """Give power levels with integers only, as the newer versions demand."""
    levels: JsonObject = dict(content)
    for name in DEFAULT_LEVELS:
        if name in levels:
            level = read_level(levels[name], rules)
            if level is None:
                del levels[name]
            else:
                levels[name] = level
    for name in _MAPS_OF_LEVELS:
        given = levels.pop(name, None)
        if isinstance(given, Mapping):
            read = {one: read_level(level, rules) for one, level in given.items()}
            levels[name] = {one: level for one, level in read.items() if level is not None}
    return levels


def _may_be_copied(key: StateKey, old: Deciding) -> bool:
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
    old: Deciding,
    rules: RoomVersion,
    state: Mapping[StateKey, Event],
) -> list[Draft]:
    creators = (user_id, *create.get("additional_creators", ()))
    levels = new_power_levels(old, rules, creators)
    first = levels if rules.privileged_creators else _with_power(levels, user_id)
    power = PowerLevels.of_content(
        first, rules, frozenset(creators) if rules.privileged_creators else frozenset()
    )
    joined = {**profile, "membership": event_types.JOIN}
    drafts = [
        Draft(event_types.CREATE, user_id, create, ""),
        Draft(event_types.MEMBER, user_id, joined, user_id),
        Draft(event_types.POWER_LEVELS, user_id, first, ""),
        *(
            Draft(one, user_id, content, "")
            for one in COPIED_TYPES
            if (content := _copied(rules, one, state.get((one, "")))) is not None
        ),
        *_many(user_id, state, power),
    ]
    if first != levels:
        drafts.append(Draft(event_types.POWER_LEVELS, user_id, levels, ""))
    return drafts


def _with_power(levels: JsonObject, user_id: UserID) -> JsonObject:
    """Give levels by which a user may do everything, until the copying is done."""
    needed = [
        *levels["users"].values(),
        *levels["events"].values(),
        *(levels.get(name, default) for name, default in DEFAULT_LEVELS.items()),
    ]
    return {**levels, "users": {**levels["users"], user_id: max(needed)}}


def _copied(rules: RoomVersion, event_type: str, event: Event | None) -> JsonObject | None:
    if event is not None:
        return _under(rules, event_type, event.content)
    # A room that says nothing forbids guests too; to say so spares clients the question.
    return {"guest_access": "forbidden"} if event_type == event_types.GUEST_ACCESS else None


def _under(rules: RoomVersion, event_type: str, content: Mapping[str, Any]) -> JsonObject:
    """Give a content that means under the new rules what it can mean of what it meant."""
    rule = content.get("join_rule")
    unknown = event_type == event_types.JOIN_RULES and (
        (rule == event_types.RULE_KNOCK and not rules.knocking)
        or (rule == event_types.RULE_RESTRICTED and not rules.restricted_joins)
        or (rule == event_types.RULE_KNOCK_RESTRICTED and not rules.knock_restricted)
    )
    return {**content, "join_rule": event_types.RULE_INVITE} if unknown else dict(content)


def _many(user_id: UserID, state: Mapping[StateKey, Event], power: PowerLevels) -> Iterable[Draft]:
    own = power.of_user(user_id)
    copied = 0
    for (event_type, state_key), event in state.items():
        content = dict(event.content)
        if event_type == event_types.MEMBER:
            # Members cannot be brought along, but bans hold.
            if content.get("membership") != event_types.BAN or power.of_user(state_key) >= own:
                continue
            content = {key: content[key] for key in ("membership", "reason") if key in content}
        elif event_type != event_types.SPACE_CHILD or not content.get("via"):
            continue
        copied += 1
        if copied > MAX_COPIED:
            return
        yield Draft(event_type, user_id, content, state_key)
