"""Checks each event while a server accepts it: the current state must allow its sender to speak.

That is what soft failure is for. Later nobody could tell, as the events that a server knew when
another event arrived are not recorded.
"""

from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import ServerName, UserID, server_of
from hs.core.streams import EVENTS, EventRow
from hs.repl.feed import Batch, Feed
from hs.storage.database import Tx
from hs.storage.inline import InlineDatabase

_MEMBERS: Final = (
    "SELECT room_id, state_key, membership FROM current_state WHERE type = 'm.room.member'"
)
_MISSING: Final = "SELECT event_id FROM backward_extremities"

Rows = list[tuple[str, ...]]


@attrs.define(eq=False)
class SoftFailureWatch:
    """Follows the memberships of one server's rooms through one life of it.

    Events that stored events cite are history, whoever their senders are; so are those behind gaps.
    """

    _server: ServerName
    _problems: list[str]
    _members: dict[tuple[str, str], str | None] = attrs.Factory(dict)
    _cited: set[str] = attrs.Factory(set)
    _not_accepted: dict[str, list[str]] = attrs.Factory(dict)  # their prev_events
    _suspects: dict[str, tuple[str, list[str]]] = attrs.Factory(
        dict
    )  # a problem or "", prev_events

    async def begin(self, database: InlineDatabase, feed: Feed) -> None:
        """Read the memberships, and follow them."""
        members, missing = await database.read(_read)
        self._members = {(row[0], row[1]): row[2] for row in members}
        self._cited = {row[0] for row in missing}
        feed.subscribe(EVENTS, self._on_rows)

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.outlier:
                continue
            prev_events = [] if row.pdu is None else _prev_events(row.pdu)
            if row.rejected or row.soft_failed:
                self._not_accepted[row.event_id] = prev_events
                if row.event_id in self._cited:
                    self._cite([row.event_id])
                continue
            if row.after_gap or row.number or row.event_id in self._cited:
                self._acquit(prev_events)
            else:
                self._suspects[row.event_id] = (self._problem_of(row), prev_events)
            self._cite(prev_events)
            for event_type, state_key, _, membership in row.changes():
                if event_type == event_types.MEMBER:
                    self._members[row.room_id, state_key] = membership

    def _problem_of(self, row: EventRow) -> str:
        if row.state_key is not None or server_of(UserID(row.sender)) == self._server:
            return ""
        membership = self._members.get((row.room_id, row.sender))
        if membership == event_types.JOIN:
            return ""
        return (
            f"{self._server} accepted {row.event_id} of {row.sender}, whose membership in"
            f" {row.room_id} was {membership}"
        )

    def _cite(self, event_ids: list[str]) -> None:
        """Note what an accepted event follows, also by way of events that were not accepted."""
        unvisited = list(event_ids)
        while unvisited:
            event_id = unvisited.pop()
            self._cited.add(event_id)
            unvisited += self._not_accepted.pop(event_id, ())

    def _acquit(self, event_ids: list[str]) -> None:
        """Note that events are history, as they are before one that was known to be missing."""
        unvisited = list(event_ids)
        while unvisited:
            _, prev_events = self._suspects.pop(unvisited.pop(), ("", []))
            unvisited += prev_events

    def end(self) -> None:
        """Report the events that are no history."""
        self._problems += [problem for problem, _ in self._suspects.values() if problem]


def _prev_events(pdu: bytes) -> list[str]:
    return [each if isinstance(each, str) else each[0] for each in orjson.loads(pdu)["prev_events"]]


async def _read(tx: Tx) -> tuple[Rows, Rows]:
    members = [(row[0], row[1], row[2]) for row in await tx.fetch(_MEMBERS)]
    return list(members), [(row[0],) for row in await tx.fetch(_MISSING)]
