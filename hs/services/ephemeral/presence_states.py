"""The last known presence of users, kept by the feed."""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

import attrs

from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.core.streams import PRESENCE, PresenceRow
from hs.lib.caching.single_flight import SingleFlight
from hs.repl.feed import Batch, Feed, Interest
from hs.services.ephemeral.presence_writer import OFFLINE
from hs.storage.database import Database
from hs.storage.ephemeral import presence as storage
from hs.storage.ephemeral.presence import PresenceRecord

MAX_USERS: Final = 200_000


@attrs.frozen
class _Known:
    writer: str
    position: int
    row: PresenceRow


class PresenceStates:
    """The last known presence of users; a process that reads none has another `interest` than ALL.

    Positions of different writers cannot be compared, so the users of each writer are listed in
    the order in which they changed.
    """

    def __init__(self, database: Database, feed: Feed, interest: Interest = Interest.ALL) -> None:
        self._database = database
        # In the order of their last change.
        self._users: dict[UserID, _Known] = {}
        self._changes: dict[str, dict[UserID, None]] = {}
        self._last_positions: dict[str, int] = {}
        self._loaded = False
        self._flights: SingleFlight[str] = SingleFlight()
        feed.subscribe(PRESENCE, self._on_rows, interest)

    async def load(self) -> None:
        """Read who was here before this process started, unless that is done."""
        if not self._loaded:
            await self._flights.run("", self._load)

    async def _load(self) -> None:
        found: dict[UserID, _Known] = {}
        for record in await self._database.read(storage.list_not_offline):
            found[UserID(record.user_id)] = _Known("", 0, _of_record(record))
        # What the feed brought meanwhile is newer, and stays last.
        found.update(self._users)
        self._users = {**{key: found[key] for key in found if key not in self._users}, **found}
        self._loaded = True

    def get_nowait(self, user_id: UserID) -> PresenceRow | None:
        """Return a user's presence if it is in memory."""
        held = self._users.get(user_id)
        return None if held is None else held.row

    async def get(self, user_ids: Collection[UserID]) -> dict[UserID, PresenceRow]:
        """Return the presence of users, without those whose presence is unknown."""
        missing = [user_id for user_id in user_ids if user_id not in self._users]
        records = await self._database.read(storage.list_of_users, missing) if missing else []
        found = {UserID(record.user_id): _of_record(record) for record in records}
        for user_id in user_ids:
            held = self._users.get(user_id)
            if held is not None:
                found[user_id] = held.row
        return found

    def most_changed(self, after: VectorPosition) -> int:
        """Return how many users at most have changed presence after a position."""
        changes = sum(
            max(0, position - after.get(writer))
            for writer, position in self._last_positions.items()
        )
        return min(changes, len(self._users))

    def changed_of(self, user_ids: Iterable[UserID], after: VectorPosition) -> list[PresenceRow]:
        """List the presence of those of some users that changed after a position."""
        users = self._users
        return [
            held.row
            for user_id in user_ids
            if (held := users.get(user_id)) is not None and held.position > after.get(held.writer)
        ]

    def changed(self, after: VectorPosition) -> list[PresenceRow]:
        """List the presence of users that changed after a position, in no order."""
        rows: list[PresenceRow] = []
        for writer, user_ids in self._changes.items():
            position = after.get(writer)
            for user_id in reversed(user_ids):
                held = self._users[user_id]
                if held.position <= position:
                    break
                rows.append(held.row)
        return rows

    def here(self) -> Iterator[PresenceRow]:
        """Return the presence of all users who are not offline, loaded first."""
        return (held.row for held in self._users.values() if held.row.state != OFFLINE)

    def offline(self) -> Iterator[PresenceRow]:
        """Return the presence of users in memory who went offline."""
        return (held.row for held in self._users.values() if held.row.state == OFFLINE)

    def _on_rows(self, batch: Batch[PresenceRow]) -> None:
        writer, users = batch.writer, self._users
        for position, row in batch.rows:
            user_id = UserID(row.user_id)
            self._forget(user_id)
            users[user_id] = _Known(writer, position, row)
            self._changes.setdefault(writer, {})[user_id] = None
        self._last_positions[writer] = max(self._last_positions.get(writer, 0), batch.position)
        while len(users) > MAX_USERS:
            self._forget(next(iter(users)))

    def _forget(self, user_id: UserID) -> None:
        held = self._users.pop(user_id, None)
        if held is not None and held.writer:
            del self._changes[held.writer][user_id]


def _of_record(record: PresenceRecord) -> PresenceRow:
    return PresenceRow(
        record.user_id,
        record.state,
        record.last_active_ms,
        record.status_msg,
        record.currently_active,
    )
