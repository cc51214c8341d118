"""The extensions: account data, receipts and typing, of the account and of the rooms shown.

A room new to the client is told whole, one that was parked from then on, others what is new.

Spec: MSC3959, MSC3960, MSC3961 as MSC4186 uses them.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.tokens import SyncToken
from hs.repl.feed import Feed
from hs.repl.rows import AccountDataRow, PushRulesRow, ReceiptRow, TypingRow
from hs.repl.streams import ACCOUNT_DATA, PUSH_RULES, RECEIPTS, TYPING
from hs.services.sync.positions import Moment
from hs.services.sync.recent_changes import Recent
from hs.services.sync.sliding.encryption_extension import EncryptionExtensions
from hs.services.sync.sliding.request import EVERYWHERE, ExtensionAsked
from hs.services.sync.sliding.room_lists import Asking, Windows
from hs.services.sync.sliding.thread_extension import NAME as THREADS
from hs.services.sync.sliding.thread_extension import ThreadExtension
from hs.services.sync.sources import (
    AccountData,
    AccountDataEntry,
    PushRuleDocuments,
    Receipts,
    Typing,
)

_PUSH_RULES: Final = "m.push_rules"

Members = dict[str, Any]
Shown = Mapping[RoomID, AbstractSet[EventID]]


@attrs.frozen(eq=False)
class Scene:
    """The answer that extensions belong to.

    `fresh` are rooms that are new to the client, with the events it is shown; `parked` those
    that came back into a window, with the token they are known up to. `began` is when the request
    came.
    """

    asking: Asking
    windows: Windows
    since: SyncToken | None
    began: Moment
    moment: Moment
    fresh: Shown
    parked: Mapping[RoomID, SyncToken]
    ignored: AbstractSet[UserID]


class Extensions:
    """Makes extensions."""

    def __init__(
        self,
        feed: Feed,
        account_data: AccountData,
        push_rules: PushRuleDocuments,
        receipts: Receipts,
        typing: Typing,
        encryption: EncryptionExtensions,
        threads: ThreadExtension,
    ) -> None:
        self._account_data = account_data
        self._push_rules = push_rules
        self._receipts = receipts
        self._typing = typing
        self._encryption = encryption
        self._threads = threads
        self._changed: Recent[UserID, AccountDataRow] = Recent(
            feed, ACCOUNT_DATA, lambda row: (UserID(row.user_id),)
        )
        self._rules_changed: Recent[UserID, PushRulesRow] = Recent(
            feed, PUSH_RULES, lambda row: (UserID(row.user_id),)
        )
        self._read: Recent[tuple[RoomID, UserID], ReceiptRow] = Recent(
            feed, RECEIPTS, lambda row: ((RoomID(row.room_id), UserID(row.user_id)),)
        )
        self._typed: Recent[RoomID, TypingRow] = Recent(
            feed, TYPING, lambda row: (RoomID(row.room_id),)
        )

    async def own_receipts(
        self, asking: Asking, windows: Windows, since: SyncToken | None, upto: SyncToken
    ) -> frozenset[RoomID]:
        """Give the rooms in which the user's own receipts moved since the client was told.

        Of rooms that were parked, that is longer ago than `since`.
        """
        if since is None:
            return frozenset()
        user_id = asking.user_id
        moved = self._read.since(since.receipts)
        found = {room_id for room_id, who in moved or () if who == user_id}
        if moved is None or windows.settled_at != asking.connection.number:
            unsure: dict[int, set[RoomID]] = {}
            for room_id in _joined(asking, windows.rooms):
                sent = asking.connection.rooms.get(room_id)
                if sent is not None and (sent.parked is not None or moved is None):
                    told = sent.parked or since
                    unsure.setdefault(told.receipts.floor, set()).add(room_id)
            for floor, room_ids in unsure.items():
                found |= await self._with_own_receipts(user_id, room_ids, floor, upto)
        return frozenset(found)

    async def _with_own_receipts(
        self, user_id: UserID, room_ids: set[RoomID], after: int, upto: SyncToken
    ) -> set[RoomID]:
        contents = await self._receipts.in_rooms(user_id, room_ids, after, upto.receipts.most())
        named = orjson.dumps(user_id)
        return {room_id for room_id, content in contents.items() if named in content}

    async def make(self, scene: Scene) -> tuple[Members, bool]:
        """Make the extensions asked for; tell whether there is news in any."""
        asked = scene.asking.request.extensions
        members: Members = {}
        if asked.account_data.enabled:
            members["account_data"] = await self._make_account_data(scene, asked.account_data)
        if asked.receipts.enabled:
            rooms = await self._make_receipts(scene, asked.receipts)
            if rooms:
                members["receipts"] = {"rooms": rooms}
        if asked.typing.enabled:
            typing = self._make_typing(scene, asked.typing)
            if typing:
                members["typing"] = {"rooms": typing}
        members[THREADS] = await self._threads.make(
            scene.asking.user_id, asked.threads, scene.since, scene.moment.token
        )
        members = {name: one for name, one in members.items() if one}
        key = scene.asking.connection.key
        encrypted, news = await self._encryption.make(
            scene.asking.user_id,
            key.device_id or None,
            asked,
            scene.since,
            scene.moment.token,
            scene.began.token,
        )
        return {**members, **encrypted}, news or bool(members)

    async def _make_account_data(self, scene: Scene, asked: ExtensionAsked) -> Members:
        user_id, since = scene.asking.user_id, scene.since
        every: Sequence[AccountDataEntry] = ()
        if since is None:
            news = every = await self._account_data.all(user_id)
        else:
            if scene.fresh or scene.parked:
                # What was deleted too: the client may have it from before.
                upto = scene.moment.token.account_data.most()
                every = await self._account_data.changes(user_id, 0, upto)
            news = await self._account_data_since(user_id, since, scene.moment)
        own = [_event(type_, content) for room_id, type_, content in news if room_id is None]
        if since is None or self._rules_changed.touched(user_id, since.push_rules):
            own.append(_event(_PUSH_RULES, await self._push_rules.content(user_id)))
        scope = _scope(scene, asked)
        # A parked room is told whole: its entries do not say when they changed.
        whole = scene.fresh.keys() | scene.parked.keys()
        rooms: dict[str, list[orjson.Fragment]] = {}
        for entries, wanted in ((every, whole), (news, scope - whole)):
            for room_id, type_, content in entries:
                if room_id is not None and room_id in wanted and room_id in scope:
                    rooms.setdefault(room_id, []).append(_event(type_, content))
        found: Members = {"global": own, "rooms": rooms}
        return {name: one for name, one in found.items() if one}

    async def _account_data_since(
        self, user_id: UserID, since: SyncToken, moment: Moment
    ) -> Sequence[AccountDataEntry]:
        if not self._changed.touched(user_id, since.account_data):
            return ()
        upto = moment.token.account_data.most()
        return await self._account_data.changes(user_id, since.account_data.floor, upto)

    async def _make_receipts(self, scene: Scene, asked: ExtensionAsked) -> Members:
        scope = _joined(scene.asking, _scope(scene, asked))
        user_id, upto = scene.asking.user_id, scene.moment.token.receipts.most()
        found: Members = {}
        fresh = scope & scene.fresh.keys()
        if fresh:
            contents = await self._receipts.in_rooms(user_id, fresh, 0, upto)
            for room_id, content in contents.items():
                kept = _of_events(orjson.loads(content), scene.fresh[room_id], user_id)
                if kept:
                    found[room_id] = {"type": "m.receipt", "content": kept}
        after: dict[int, set[RoomID]] = {}
        for room_id, token in scene.parked.items():
            if room_id in scope:
                after.setdefault(token.receipts.floor, set()).add(room_id)
        live = self._read_lately(scene, scope - fresh - scene.parked.keys())
        if live and scene.since is not None:
            after.setdefault(scene.since.receipts.floor, set()).update(live)
        for floor, room_ids in after.items():
            contents = await self._receipts.in_rooms(user_id, room_ids, floor, upto)
            for room_id, content in contents.items():
                found[room_id] = {"type": "m.receipt", "content": orjson.Fragment(content)}
        return found

    def _read_lately(self, scene: Scene, scope: AbstractSet[RoomID]) -> AbstractSet[RoomID]:
        since = scene.since
        if since is None or since.receipts.covers_all(scene.moment.token.receipts):
            return frozenset()
        moved = self._read.since(since.receipts)
        return scope if moved is None else scope & {room_id for room_id, _ in moved}

    def _make_typing(self, scene: Scene, asked: ExtensionAsked) -> Members:
        since = scene.since
        touched: AbstractSet[RoomID] | None = frozenset()
        # Whether an empty list is news is known only where the change itself is.
        known = set(scene.parked)
        if since is not None and not since.typing.vector.covers_all(
            scene.moment.token.typing.vector
        ):
            touched = self._typed.since(since.typing.vector)
            known |= self._typed.known_since(since.typing.vector)
        whole = scene.fresh.keys() | scene.parked.keys()
        if touched is not None and not touched and not whole:
            return {}
        scope = _joined(scene.asking, _scope(scene, asked))
        found: Members = {}
        for room_id in scope if touched is None else scope & (touched | whole):
            users = [one for one in self._typing.typing_users(room_id) if one not in scene.ignored]
            if users or room_id in known:
                found[room_id] = {"type": "m.typing", "content": {"user_ids": users}}
        return found


def _scope(scene: Scene, asked: ExtensionAsked) -> AbstractSet[RoomID]:
    """Give the rooms that an extension is wanted of."""
    windows = scene.windows
    if asked.lists is None and asked.rooms is None:
        return windows.rooms.keys()
    scope: set[RoomID] = set()
    for name, room_ids in windows.by_list.items():
        if asked.lists is None or EVERYWHERE in asked.lists or name in asked.lists:
            scope.update(room_ids)
    every = asked.rooms is None or EVERYWHERE in asked.rooms
    scope.update(one for one in windows.subscribed if every or one in (asked.rooms or ()))
    return scope


def _joined(asking: Asking, room_ids: Iterable[RoomID]) -> set[RoomID]:
    rooms = asking.rooms
    return {one for one in room_ids if rooms[one].membership == event_types.JOIN}


def _of_events(content: Members, shown: AbstractSet[EventID], user_id: UserID) -> Members:
    """Give the receipts at events that are shown, and the user's own."""
    kept: Members = {}
    for event_id, by_type in content.items():
        if event_id in shown:
            kept[event_id] = by_type
            continue
        own = {
            receipt_type: {user_id: users[user_id]}
            for receipt_type, users in by_type.items()
            if user_id in users
        }
        if own:
            kept[event_id] = own
    return kept


def _event(event_type: str, content: bytes) -> orjson.Fragment:
    return orjson.Fragment(b'{"type":%b,"content":%b}' % (orjson.dumps(event_type), content))
