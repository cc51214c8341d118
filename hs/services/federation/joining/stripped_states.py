"""Stripped state in invites and knocks: what other servers send, and what this server sends.

Since version 1.16 of the specification the entries are whole events. The ID of a room of version 12
is the hash of its create event, so there all entries must be valid events; in older rooms, stripped
events without signatures are accepted as well.

Spec: server-server API, Inviting to a room; client-server API, Stripped state; MSC4311.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject, encode_lenient
from hs.core.errors import InvalidParam, MatrixError, MissingParam
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import RoomID
from hs.core.versions import RoomVersion
from hs.services.rooms.read.stripped_state import IncludedState
from hs.services.rooms.receive.pdu_checks import PduChecker
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore

MAX_ENTRIES: Final = 100
KEYS_TIMEOUT_S: Final = 20.0

_FIELDS: Final = {"type": str, "state_key": str, "sender": str, "content": dict}


@attrs.frozen(eq=False)
class StrippedStates:
    """Checks and collects stripped state."""

    _checker: PduChecker
    _events: EventStore
    _states: StateStore
    _included: IncludedState

    async def check_invite(
        self, room_id: RoomID, rules: RoomVersion, entries: Sequence[Any]
    ) -> bytes:
        """Return the stripped state of an invite, as it is stored.

        Raises: InvalidParam, MissingParam, if the room's version requires what it lacks.
        """
        valid = await self._valid(room_id, rules, entries)
        if rules.room_id_is_create_hash:
            if not any(entry["type"] == event_types.CREATE for entry in valid):
                raise MissingParam("invite_room_state must contain the create event of the room")
            if len(valid) < len(entries):
                raise InvalidParam("invite_room_state must consist of valid events of the room")
        return orjson.dumps(valid)

    async def valid_in_knock(
        self, room_id: RoomID, rules: RoomVersion, entries: Sequence[Any]
    ) -> bytes:
        """Return the stripped state of a knock, as it is stored, without invalid entries."""
        return orjson.dumps(await self._valid(room_id, rules, entries))

    async def _valid(
        self, room_id: RoomID, rules: RoomVersion, entries: Sequence[Any]
    ) -> list[JsonObject]:
        stripped = [entry for entry in entries[:MAX_ENTRIES] if _is_stripped_event(entry)]
        signed = [index for index, entry in enumerate(stripped) if "signatures" in entry]
        checked: dict[int, Event] = {}
        with trio.move_on_after(KEYS_TIMEOUT_S):
            results = await self._checker.check(
                room_id, rules, [_encoded(stripped[index]) for index in signed]
            )
            pairs = zip(signed, results, strict=True)
            checked = {index: result for index, result in pairs if isinstance(result, Event)}
        valid = []
        for index, entry in enumerate(stripped):
            if index in checked:
                valid.append({**entry, "content": dict(checked[index].content)})
            elif "signatures" not in entry and not rules.room_id_is_create_hash:
                valid.append(entry)
        return valid

    async def of_room(self, room_id: RoomID, inviter: str | None = None) -> list[JsonObject]:
        """Return the events that identify a room to an invited or knocking user."""
        keys = dict.fromkeys(self._included.keys)
        keys[event_types.CREATE_KEY] = None
        if inviter is not None:
            keys[event_types.MEMBER, inviter] = None
        ids = await self._states.current_of_keys(room_id, tuple(keys))
        if self._included.whole_types:
            state = await self._states.current(room_id)
            ids = {
                **ids,
                **{key: state[key] for key in state if key[0] in self._included.whole_types},
            }
        stored_events = await self._events.get(list(ids.values())[:MAX_ENTRIES])
        return [dict(stored.effective_event.pdu) for stored in stored_events.values()]


def _is_stripped_event(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(field), kind) for field, kind in _FIELDS.items()
    )


def _encoded(entry: JsonObject) -> bytes:
    try:
        return encode_lenient(entry)
    except MatrixError:
        return b""
