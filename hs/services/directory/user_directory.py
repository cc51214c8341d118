"""The user directory: updated by one process from profiles and member events, searched by all.

Spec: client-server API, User Directory.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.core.streams import CACHES, EVENTS, CacheRow, EventRow
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.services.directory.directory_entries import entry_of, fold_text, local_entry_of
from hs.services.directory.directory_progress import PROFILES_CACHE, DirectoryProgress
from hs.settings.sections.features import UserDirectorySettings
from hs.storage.database import Database, Tx
from hs.storage.directory import user_directory as storage
from hs.storage.directory.user_directory import UserSearch
from hs.storage.rooms import timeline_gaps

MAX_RESULTS: Final = 50
DEFAULT_RESULTS: Final = 10
MAX_TERM_CHARS: Final = 255
GATHER_S: Final = 0.1
BATCH: Final = 500
POLL_S: Final = 60.0
"""How often users who have neither a changed profile nor a room are added."""

MAX_CHANGES: Final = 100_000
"""Users with changed profiles that wait. The oldest is dropped, and found by the old name."""

_MEMBERS: Final = ""
"""Wakes the duty for new member events. It may be dropped: each run reads from its position."""


class UserDirectoryUpdater:
    """The duty that updates the directory, in one process."""

    def __init__(self, database: Database, feed: Feed, server_name: ServerName) -> None:
        self._database = database
        self._suffix = f":{server_name}"
        # Users with changed profiles, and _MEMBERS.
        self._changes: FeedQueue[str] = FeedQueue(
            "user directory", MAX_CHANGES, WhenFull.DROP_OLDEST
        )
        self._changes.follow(feed, EVENTS, _changed_members, Interest.CHANGES)
        self._changes.follow(feed, CACHES, _changed_profiles)

    async def run(self) -> None:
        """Update the directory until cancelled."""
        while True:
            await self.catch_up()
            with trio.move_on_after(POLL_S):
                await self._changes.wait()
                # Gather changes: many joins of a room, or one user's new name in many rooms.
                await trio.sleep(GATHER_S)

    async def catch_up(self) -> None:
        """Bring the directory up to date."""
        with self._changes.batch(MAX_CHANGES) as changes:
            await self._read_members()
            while unlisted := await self._database.read(storage.list_unlisted, BATCH):
                await self._put({}, set(unlisted), None)
            changed = [user_id for user_id in changes if user_id != _MEMBERS]
            for start in range(0, len(changed), BATCH):
                await self._put({}, set(changed[start : start + BATCH]), None)

    async def _read_members(self) -> None:
        position = await self._database.read(storage.load_progress)
        while True:
            gaps, members = await self._database.read_long(_list_after, position)
            numbers = [
                [stream_id for _, stream_id in gaps],
                [member.stream_id for member in members],
            ]
            upto = min((each[-1] for each in numbers if len(each) == BATCH), default=math.inf)
            reached = [number for each in numbers for number in each if number <= upto]
            if not reached:
                return
            for room_id in {room_id for room_id, stream_id in gaps if stream_id <= upto}:
                await self._read_imported(room_id)
            pdus = {member.user_id: member.pdu for member in members if member.stream_id <= upto}
            local = {user_id for user_id in pdus if user_id.endswith(self._suffix)}
            position = max(reached)
            await self._put(self._remote_profiles(pdus), local, position)
            if upto == math.inf:
                # Newer events are in the queue again; they are read after gathering.
                return

    async def _read_imported(self, room_id: str) -> None:
        """Read the members of a room whose state came from other servers."""
        last, is_complete = "", False
        while not is_complete:
            members = await self._database.read(storage.list_imported_members, room_id, last, BATCH)
            await self._put(self._remote_profiles(dict(members)), set(), None)
            is_complete = len(members) < BATCH
            last = members[-1][0] if members else last

    def _remote_profiles(self, pdus: Mapping[str, bytes]) -> dict[str, Mapping[str, Any]]:
        """Return the profiles in the member events of joined users of other servers."""
        profiles = {
            user_id: _member_profile(pdu)
            for user_id, pdu in pdus.items()
            if not user_id.endswith(self._suffix)
        }
        return {user_id: profile for user_id, profile in profiles.items() if profile is not None}

    async def _put(
        self, remote: Mapping[str, Mapping[str, Any]], local: set[str], position: int | None
    ) -> None:
        users = [entry_of(user_id, profile, is_local=0) for user_id, profile in remote.items()]
        if local:
            profiles = await self._database.read(storage.profiles_of, sorted(local))
            users += [local_entry_of(user_id, fields) for user_id, fields in profiles.items()]
        await self._database.write(storage.put, users, position)


@attrs.frozen(eq=False)
class UserDirectory:
    """The search of the directory."""

    database: Database
    progress: DirectoryProgress
    settings: UserDirectorySettings
    server_name: ServerName

    async def search(self, requester: Requester, term: str, limit: int) -> dict[str, Any]:
        """Return users that match all words of the term by their IDs and display names.

        It waits, not for long, until the directory has seen what was committed before.
        """
        words = fold_text(term[:MAX_TERM_CHARS]).split()
        page_size = max(0, min(limit, MAX_RESULTS))
        if not self.settings.enabled or not words or not page_size:
            return {"limited": False, "results": []}
        await self.progress.wait()
        users = await self.database.read_long(
            storage.search,
            UserSearch(
                requester=requester.user_id,
                words=words,
                limit=page_size + 1,
                all_users=self.settings.search_all_users,
                remote_users=not self.settings.exclude_remote_users,
                locked_users=self.settings.show_locked_users,
                local_first=self.settings.prefer_local_users,
                local_suffix=f":{self.server_name}",
            ),
        )
        results = [
            {name: value for name, value in user._asdict().items() if value is not None}
            for user in users[:page_size]
        ]
        return {"limited": len(users) > page_size, "results": results}


async def _list_after(
    tx: Tx, position: int
) -> tuple[list[tuple[str, int]], list[storage.MemberEvent]]:
    """List gaps and member events after a position, of one snapshot: a join is both."""
    gaps = await timeline_gaps.list_after(tx, position, BATCH)
    return gaps, await storage.list_members_after(tx, position, BATCH)


def _changed_members(batch: Batch[EventRow]) -> tuple[str, ...]:
    # Any event that follows a gap may have changed members.
    is_changed = any(
        row.type == event_types.MEMBER or row.state_changes is not None for _, row in batch.rows
    )
    return (_MEMBERS,) if is_changed else ()


def _changed_profiles(batch: Batch[CacheRow]) -> Iterator[str]:
    for _, row in batch.rows:
        if row.cache == PROFILES_CACHE:
            yield from row.keys


def _member_profile(pdu: bytes) -> Mapping[str, Any] | None:
    content = orjson.loads(pdu).get("content")
    if not isinstance(content, dict) or content.get("membership") != event_types.JOIN:
        return None
    return content
