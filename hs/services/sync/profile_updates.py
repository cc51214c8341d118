"""Profile fields for clients that follow profiles, in `/sync` and in sliding sync.

A client receives the latest change of a field once, from users of this server that share a room
with it. Whatever is read for one response is limited in number and in bytes; further changes belong
to the next response, which continues at the position that this one reached.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

import attrs

from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.core.streams import PROFILE_UPDATES, ProfileUpdateRow
from hs.repl.feed import Feed
from hs.repl.recent_keys import RecentKeys
from hs.storage.accounts import profile_updates
from hs.storage.accounts.profile_updates import ProfileUpdate
from hs.storage.database import Database

MAX_UPDATES: Final = 1000
"""Maximum number of changed fields that are read for one response."""
MAX_SCANS: Final = 10
"""How many times as many changes, of all users, are looked at."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""Size of the values after which no further ones are read for a response."""

MAX_NAMES: Final = 100

_USERS_AT_ONCE: Final = 100

ProfileFields = dict[UserID, dict[str, bytes | None]]
"""The values of fields as JSON, by user; None for a field that was deleted."""


class SharedRoomQuery(Protocol):
    """A query for the users who share rooms."""

    async def sharing(self, user_id: UserID, among: Collection[UserID]) -> AbstractSet[UserID]:
        """Return the users of `among` that share a room with a local user now."""
        ...


@attrs.frozen
class ProfileViewer:
    """The user to whom profiles are sent, and the users whom they ignore."""

    user_id: UserID
    ignored: AbstractSet[UserID] = frozenset()


@attrs.frozen
class ProfileUpdatesPage:
    """Changed fields; `reached` is where the next response continues, None if it has them all."""

    fields: ProfileFields
    reached: VectorPosition | None = None


class ProfileUpdates:
    """The reader of profiles. `fields` are names of fields; None means all of them."""

    def __init__(self, database: Database, feed: Feed, rooms: SharedRoomQuery) -> None:
        self._database = database
        self._rooms = rooms
        self._recent: RecentKeys[UserID, ProfileUpdateRow] = RecentKeys(
            feed, PROFILE_UPDATES, lambda row: (UserID(row.user_id),)
        )

    async def changes(
        self,
        viewer: ProfileViewer,
        fields: AbstractSet[str] | None,
        since: VectorPosition,
        now: VectorPosition,
    ) -> ProfileUpdatesPage:
        """Return changed fields of the viewer and of those sharing rooms, in `(since, now]`.

        Reads nothing if no field of any user changed.
        """
        if since is now or since.covers_all(now):
            return ProfileUpdatesPage({})
        known = self._recent.since(since)
        if known is None or len(known) > MAX_UPDATES:
            updates, end = await self._scan(viewer, since.floor, now.floor)
        else:
            shown = await self.visible(viewer, known)
            if not shown:
                return ProfileUpdatesPage({})
            updates = await self._database.read(
                profile_updates.list_updates_of, since.floor, now.floor, MAX_UPDATES, sorted(shown)
            )
            end = updates[-1].stream_id if len(updates) == MAX_UPDATES else None
        wanted = [update for update in updates if fields is None or update.field in fields]
        return await self._load_changed(wanted, end)

    async def visible(
        self, viewer: ProfileViewer, among: AbstractSet[UserID]
    ) -> AbstractSet[UserID]:
        """Return the users who share a room with the viewer and are not ignored, and the viewer."""
        own = among & {viewer.user_id}
        others = among - own - viewer.ignored
        return own | (await self._rooms.sharing(viewer.user_id, others) if others else set())

    async def _scan(
        self, viewer: ProfileViewer, after: int, upto: int
    ) -> tuple[list[ProfileUpdate], int | None]:
        """Return changes for the viewer, and where to continue if there are more.

        For tokens from before this process's start, and when very many users have changed.
        """
        found: list[ProfileUpdate] = []
        for _ in range(MAX_SCANS):
            updates = await self._database.read(
                profile_updates.list_updates, after, upto, MAX_UPDATES
            )
            shown = await self.visible(viewer, {UserID(each.user_id) for each in updates})
            found += [update for update in updates if update.user_id in shown]
            if len(updates) < MAX_UPDATES:
                return found, None
            after = updates[-1].stream_id
            if len(found) >= MAX_UPDATES:
                break
        return found, after

    async def current(
        self, viewer: ProfileViewer, user_ids: AbstractSet[UserID], fields: AbstractSet[str] | None
    ) -> ProfileFields:
        """Return the present fields of users, as far as they fit into a response.

        All of `user_ids` share a room with the viewer.
        """
        # A profile has few fields, so a long list of names is no help to the database.
        names = None if fields is None or len(fields) > MAX_NAMES else sorted(fields)
        ordered = sorted(user_ids - (viewer.ignored - {viewer.user_id})) if names != [] else []
        profiles: ProfileFields = {}
        size_bytes = 0
        for start in range(0, len(ordered), _USERS_AT_ONCE):
            users = ordered[start : start + _USERS_AT_ONCE]
            for user_id, field, value in await self._database.read(
                profile_updates.list_values, users, names
            ):
                if fields is not None and field not in fields:
                    continue
                profiles.setdefault(UserID(user_id), {})[field] = value
                size_bytes += len(value)
            if size_bytes > MAX_BYTES:
                break
        return profiles

    async def _load_changed(
        self, updates: Sequence[ProfileUpdate], end: int | None
    ) -> ProfileUpdatesPage:
        changed: ProfileFields = {}
        size_bytes = 0
        for start in range(0, len(updates), _USERS_AT_ONCE):
            part = updates[start : start + _USERS_AT_ONCE]
            rows = await self._database.read(
                profile_updates.list_values,
                sorted({update.user_id for update in part}),
                sorted({update.field for update in part}),
            )
            values = {(row.user_id, row.field): row.value for row in rows}
            for user_id, field, _ in part:
                value = values.get((user_id, field))
                changed.setdefault(UserID(user_id), {})[field] = value
                size_bytes += 0 if value is None else len(value)
            if size_bytes > MAX_BYTES and start + len(part) < len(updates):
                end = part[-1].stream_id
                break
        return ProfileUpdatesPage(changed, None if end is None else VectorPosition(end))


def merge_fields(into: ProfileFields, fields: Mapping[UserID, Mapping[str, bytes | None]]) -> None:
    """Add the fields of users to others, replacing those that both have."""
    for user_id, values in fields.items():
        into.setdefault(user_id, {}).update(values)
