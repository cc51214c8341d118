"""`/sync` over a World; the data of other services is held in dicts."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import orjson

from hs.core.errors import NotFound
from hs.core.filters import SyncFilter
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.push.unread import Count, RoomCounts
from hs.core.requester import Requester
from hs.core.stream_def import StreamDef
from hs.core.streams import (
    ACCOUNT_DATA,
    CACHES,
    PRESENCE,
    PUSH_RULES,
    RECEIPTS,
    TYPING,
    AccountDataRow,
    CacheRow,
    PresenceRow,
    PushRulesRow,
    ReceiptRow,
    TypingRow,
)
from hs.repl.feed import Batch, Feed
from hs.services.rooms.read.visibility import RetentionCutoff
from hs.services.rooms.store.memberships import CACHE_NAME
from hs.services.sync.assembly import RoomReaders, SyncSources, make_sync
from hs.services.sync.notifier import Notifier
from hs.services.sync.sources import AccountDataEntry, Extension
from hs.services.sync.sync_context import SyncRequest
from hs.services.sync.sync_service import SyncService
from hs.storage.database import Database
from hs.storage.rooms import rooms
from tests.support.reading import ReadingScene, readers_of
from tests.support.rooms import World, open_world


@attrs.define(eq=False)
class Tables:
    """The data that sync reads, other than rooms; each change is announced on its stream."""

    feed: Feed
    numbers: dict[str, int] = attrs.Factory(dict)
    data: dict[tuple[UserID, RoomID | None, str], tuple[int, bytes]] = attrs.Factory(dict)
    filters: dict[str, SyncFilter] = attrs.Factory(dict)
    typing: dict[RoomID, list[UserID]] = attrs.Factory(dict)
    receipts: list[tuple[int, ReceiptRow]] = attrs.Factory(list)
    presence: dict[UserID, tuple[int, str]] = attrs.Factory(dict)
    unread: dict[tuple[UserID, RoomID], RoomCounts] = attrs.Factory(dict)
    syncs: list[tuple[UserID, str]] = attrs.Factory(list)

    def announce(self, stream: StreamDef[Any], row: Any) -> int:
        before = self.numbers.get(stream.name, 0)
        number = self.numbers[stream.name] = before + 1
        self.feed.deliver(Batch(stream, "main", before, number, [(number, row)]))
        return number

    def set_account_data(
        self, user_id: UserID, event_type: str, content: Any, room_id: RoomID | None = None
    ) -> None:
        """Set an entry of account data; empty content deletes it."""
        number = self.numbers.get(ACCOUNT_DATA.name, 0) + 1
        self.data[user_id, room_id, event_type] = (number, orjson.dumps(content))
        self.announce(ACCOUNT_DATA, AccountDataRow(user_id, room_id, event_type))

    def set_typing(self, room_id: RoomID, *user_ids: UserID) -> None:
        self.typing[room_id] = list(user_ids)
        self.announce(TYPING, TypingRow(room_id, user_ids))

    def read_up_to(
        self, room_id: RoomID, user_id: UserID, event_id: EventID, kind: str = "m.read"
    ) -> None:
        row = ReceiptRow(
            room_id=room_id,
            receipt_type=kind,
            user_id=user_id,
            event_id=event_id,
            thread_id=None,
            ts=1,
        )
        self.receipts.append((self.numbers.get(RECEIPTS.name, 0) + 1, row))
        self.announce(RECEIPTS, row)

    def set_presence(self, user_id: UserID, state: str) -> None:
        self.presence[user_id] = (self.numbers.get(PRESENCE.name, 0) + 1, state)
        self.announce(PRESENCE, PresenceRow(user_id, state, 0))

    def change_rules(self, user_id: UserID) -> None:
        self.announce(PUSH_RULES, PushRulesRow(user_id))

    def count(self, user_id: UserID, room_id: RoomID, counts: RoomCounts) -> None:
        self.unread[user_id, room_id] = counts

    # The interfaces that sync reads from

    async def all(self, user_id: UserID) -> Sequence[AccountDataEntry]:
        entries = await self.changes(user_id, 0, 2**62)
        return [entry for entry in entries if entry.content != b"{}"]

    async def changes(self, user_id: UserID, after: int, upto: int) -> Sequence[AccountDataEntry]:
        return [
            AccountDataEntry(room_id, event_type, content)
            for (owner, room_id, event_type), (number, content) in self.data.items()
            if owner == user_id and after < number <= upto
        ]

    async def content(self, user_id: UserID) -> bytes:
        return b'{"global":{}}'

    async def stored_filter(self, user_id: UserID, filter_id: str) -> SyncFilter:
        if filter_id not in self.filters:
            raise NotFound("No such filter")
        return self.filters[filter_id]

    async def in_rooms(
        self, user_id: UserID, room_ids: Collection[RoomID], after: int, upto: int
    ) -> Mapping[RoomID, bytes]:
        receipts: dict[RoomID, dict[str, Any]] = {}
        for number, row in self.receipts:
            is_private = row.receipt_type == "m.read.private"
            if row.room_id not in room_ids or not after < number <= upto:
                continue
            if is_private and row.user_id != user_id:
                continue
            content = receipts.setdefault(RoomID(row.room_id), {})
            kinds = content.setdefault(row.event_id, {})
            kinds.setdefault(row.receipt_type, {})[row.user_id] = {"ts": row.ts}
        return {room_id: orjson.dumps(content) for room_id, content in receipts.items()}

    def typing_users(self, room_id: RoomID) -> Sequence[UserID]:
        return self.typing.get(room_id, [])

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition
    ) -> Mapping[RoomID, RoomCounts]:
        return {
            room_id: self.unread[user_id, room_id]
            for room_id in room_ids
            if (user_id, room_id) in self.unread
        }


@attrs.frozen
class PresenceTable:
    """The presence part of `Tables`."""

    tables: Tables

    @contextmanager
    def syncing(self, user_id: UserID, device_id: str | None, state: str) -> Iterator[None]:
        self.tables.syncs.append((user_id, state))
        yield

    async def changes(
        self, user_id: UserID, after: VectorPosition | None
    ) -> Mapping[UserID, bytes]:
        floor = 0 if after is None else after.floor
        return {
            member: _presence(member, state)
            for member, (number, state) in self.tables.presence.items()
            if number > floor
        }

    async def of(self, user_ids: Collection[UserID]) -> Mapping[UserID, bytes]:
        return {
            member: _presence(member, state)
            for member, (_, state) in self.tables.presence.items()
            if member in user_ids
        }


def _presence(user_id: UserID, state: str) -> bytes:
    return orjson.dumps({"type": "m.presence", "sender": user_id, "content": {"presence": state}})


@attrs.define(eq=False)
class Syncing:
    """A process that serves `/sync`."""

    world: World
    reading: ReadingScene
    tables: Tables
    notifier: Notifier
    service: SyncService

    async def sync(
        self,
        user_id: UserID,
        since: str | None = None,
        *,
        filter: Any = None,
        timeout_ms: int = 0,
        device_id: str | None = "DEVICE",
        **more: Any,
    ) -> dict[str, Any]:
        """Send a request and return the parsed response."""
        text = (
            filter if filter is None or isinstance(filter, str) else orjson.dumps(filter).decode()
        )
        request = SyncRequest(Requester(user_id, device_id), since, timeout_ms, text, **more)
        response: dict[str, Any] = orjson.loads(await self.service.sync(request))
        return response


@asynccontextmanager
async def open_syncing(
    database: Database, expiry: RetentionCutoff | None = None, **more: Any
) -> AsyncIterator[Syncing]:
    """Open a world and build sync over it; further keywords are passed to `make_sync`."""
    async with open_world(database) as world:
        yield make_syncing(world, expiry, **more)


def make_syncing(
    world: World,
    expiry: RetentionCutoff | None = None,
    extensions: Sequence[Extension] = (),
    **more: Any,
) -> Syncing:
    """Build sync over a world, before its first event or after a restart.

    Further keywords go to `make_sync`.
    """
    reading = readers_of(world, expiry)
    tables = Tables(world.feed)
    readers = RoomReaders(
        world.database,
        world.feed,
        world.events,
        world.states,
        reading.memberships,
        reading.tails,
        reading.rendering,
        reading.visibility,
    )
    sources = SyncSources(
        account_data=tables,
        push_rules=tables,
        filters=tables,
        receipts=tables,
        typing=tables,
        presence=PresenceTable(tables),
        counts=tables,
        extensions=extensions,
    )
    notifier = Notifier(world.feed)
    service = make_sync(readers, sources, notifier, **more)
    return Syncing(world, reading, tables, notifier, service)


def bodies(room: dict[str, Any]) -> list[str]:
    """Return the texts in a room's timeline."""
    return [
        event["content"]["body"]
        for event in room["timeline"]["events"]
        if "body" in event["content"]
    ]


def keys(events: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return the state keys of state events."""
    return {(event["type"], event["state_key"]) for event in events}


def thread_counts(**threads: tuple[int, int]) -> RoomCounts:
    """Return counts for threads, with none in the main timeline."""
    return RoomCounts(Count(), {EventID(root): Count(*count) for root, count in threads.items()})


async def forget(world: World, room_id: RoomID, user_id: UserID) -> None:
    """Let a user forget a room that they have left."""
    await world.database.write(rooms.forget, user_id, room_id)
    world.feed.deliver(Batch(CACHES, "main", 0, 1, [(1, CacheRow(CACHE_NAME, (user_id,)))]))
