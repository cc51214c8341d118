"""Reading relations: the children of events, what is summed up of them, and threads."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

BEFORE_ALL: Final = -(10**18)
"""Lower than any event's number, those of events from before our time too."""

# References to events, and of the edits by an event's own author so many, the latest first.
LINKED = sql(
    lambda d: (
        "SELECT parent_id, event_id, rel_type FROM ("
        "SELECT r.parent_id, r.event_id, r.rel_type, e.origin_server_ts, row_number() OVER "
        "(PARTITION BY r.parent_id, r.rel_type ORDER BY e.origin_server_ts DESC, r.event_id DESC) "
        "AS place FROM relations r JOIN events e ON e.event_id = r.event_id "
        "LEFT JOIN events o ON o.event_id = r.parent_id "
        f"WHERE {d.any_of('r.parent_id', 1, 'text')} AND (r.rel_type = 'm.reference' "
        "OR (r.rel_type = 'm.replace' AND r.sender = o.sender AND r.type = o.type))"
        ") linked WHERE rel_type = 'm.reference' OR place <= $2 "
        "ORDER BY origin_server_ts DESC, event_id DESC"
    )
)
THREADS_OF = sql(
    lambda d: (
        "SELECT root_id, latest_event_id, replies FROM threads "
        f"WHERE {d.any_of('root_id', 1, 'text')}"
    )
)
REPLIERS = sql(
    lambda d: (
        "SELECT parent_id, sender, count(*) FROM relations "
        f"WHERE {d.any_of('parent_id', 1, 'text')} AND rel_type = 'm.thread' "
        "GROUP BY parent_id, sender"
    )
)
LATEST_REPLIES_BUT = sql(
    lambda d: (
        "SELECT root_id, (SELECT r.event_id FROM relations r "
        "WHERE r.parent_id = root_id AND r.rel_type = 'm.thread' "
        f"AND {d.none_of('r.sender', 2, 'text')} ORDER BY r.stream_id DESC LIMIT 1) "
        f"FROM {d.unnest('roots', 'root_id text')}"
    )
)
CHILDREN = sql(
    lambda d: (
        "SELECT parent_id, rel_type, sender FROM relations "
        f"WHERE {d.any_of('parent_id', 1, 'text')}"
    )
)
_COLUMNS = "SELECT r.event_id, r.depth, r.stream_id FROM relations r"
_WHERE = (
    "r.room_id = $2 AND (r.rel_type = $3 OR $3 = '') AND (r.type = $4 OR $4 = '') "
    "AND (r.depth > $5 OR (r.depth = $5 AND r.stream_id > $6)) "
    "AND (r.depth < $7 OR (r.depth = $7 AND r.stream_id <= $8))"
)
NEWEST_CHILDREN = (
    f"{_COLUMNS} WHERE r.parent_id = $1 AND {_WHERE} "
    "ORDER BY r.depth DESC, r.stream_id DESC LIMIT $9"
)
OLDEST_CHILDREN = (
    f"{_COLUMNS} WHERE r.parent_id = $1 AND {_WHERE} ORDER BY r.depth, r.stream_id LIMIT $9"
)
# UNION, not UNION ALL: events of hostile servers may relate to each other in a circle.
_FAMILY = """
RECURSIVE family (event_id, hops) AS (
    SELECT event_id, 1 FROM relations WHERE parent_id = $1
    UNION
    SELECT c.event_id, f.hops + 1 FROM relations c JOIN family f ON c.parent_id = f.event_id
    WHERE f.hops < 3
)
"""
_IN_FAMILY = f"WHERE r.event_id IN (SELECT event_id FROM family) AND {_WHERE}"
NEWEST_FAMILY = (
    f"WITH {_FAMILY} {_COLUMNS} {_IN_FAMILY} ORDER BY r.depth DESC, r.stream_id DESC LIMIT $9"
)
OLDEST_FAMILY = f"WITH {_FAMILY} {_COLUMNS} {_IN_FAMILY} ORDER BY r.depth, r.stream_id LIMIT $9"
# Who wrote the root takes part as well. Not EXISTS: PostgreSQL may prefer to look up first all
# that the user ever wrote.
_TAKES_PART = """
($5 = '' OR coalesce(
    (SELECT 1 FROM relations r
     WHERE r.parent_id = t.root_id AND r.rel_type = 'm.thread' AND r.sender = $5 LIMIT 1),
    (SELECT 1 FROM events e WHERE e.event_id = t.root_id AND e.sender = $5)
) = 1)
"""
THREADS = sql(
    lambda d: (
        "SELECT t.root_id, t.latest_stream_id FROM threads t "
        "LEFT JOIN relations l ON l.event_id = t.latest_event_id "
        "WHERE t.room_id = $1 AND t.latest_stream_id < $2 "
        f"AND (l.sender IS NULL OR {d.none_of('l.sender', 4, 'text')}) AND {_TAKES_PART} "
        "ORDER BY t.latest_stream_id DESC LIMIT $3"
    )
)
# Those whose last reply is by somebody ignored lie where the last one by another does. Step by
# step: to look into a thread costs more than to pass it over.
THREADS_MOVED_DOWN = sql(
    lambda d: (
        "WITH moved AS MATERIALIZED ("
        "SELECT t.root_id FROM threads t JOIN relations l ON l.event_id = t.latest_event_id "
        "WHERE t.room_id = $1 AND t.latest_stream_id > $6 "
        f"AND {d.any_of('l.sender', 4, 'text')}"
        "), placed AS MATERIALIZED ("
        "SELECT t.root_id, (SELECT max(r.stream_id) FROM relations r "
        "WHERE r.parent_id = t.root_id AND r.rel_type = 'm.thread' "
        f"AND {d.none_of('r.sender', 4, 'text')}) AS place FROM moved t WHERE {_TAKES_PART}"
        ") SELECT root_id, place FROM placed WHERE place < $2 AND place > $6 "
        "ORDER BY place DESC LIMIT $3"
    )
)


class Linked(NamedTuple):
    """An edit of or a reference to an event."""

    parent_id: str
    event_id: str
    rel_type: str


class Thread(NamedTuple):
    """The end of a thread and its size."""

    root_id: str
    latest_event_id: str
    replies: int


class Related(NamedTuple):
    """What is summed up of the children of several events."""

    linked: list[Linked]
    threads: list[Thread]
    repliers: list[tuple[str, str, int]]  # (root, sender, replies)


class Child(NamedTuple):
    """A child and its place in the room's history."""

    event_id: str
    depth: int
    stream_id: int


async def related_to(tx: Tx, event_ids: Sequence[str], most_edits: int) -> Related:
    """Read what is summed up of the children of events, of each at most so many edits."""
    ids = list(event_ids)
    linked = [Linked(*row) for row in await tx.fetch(LINKED, ids, most_edits)]
    threads = [Thread(*row) for row in await tx.fetch(THREADS_OF, ids)]
    repliers: list[tuple[str, str, int]] = []
    if threads:
        rows = await tx.fetch(REPLIERS, [thread.root_id for thread in threads])
        repliers = [(row[0], row[1], row[2]) for row in rows]
    return Related(linked, threads, repliers)


async def latest_replies_but(
    tx: Tx, root_ids: Sequence[str], senders: Sequence[str]
) -> dict[str, str]:
    """Give the last reply in each of some threads that none of some users sent."""
    rows = await tx.fetch(LATEST_REPLIES_BUT, list(root_ids), list(senders))
    return {row[0]: row[1] for row in rows if row[1] is not None}


async def children(tx: Tx, event_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """List (parent, rel_type, sender) of the children of events."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(CHILDREN, list(event_ids))]


class Wanted(NamedTuple):
    """Which children are wanted; places are (depth, stream_id), and "" lets all pass."""

    room_id: str
    parent_id: str
    rel_type: str
    event_type: str
    after: tuple[int, int]
    upto: tuple[int, int]
    limit: int

    def arguments(self) -> tuple[object, ...]:
        """Give the arguments of the statements."""
        return (
            self.parent_id,
            self.room_id,
            self.rel_type,
            self.event_type,
            *self.after,
            *self.upto,
            self.limit,
        )


async def newest_children(tx: Tx, wanted: Wanted) -> list[Child]:
    """List children, the newest first."""
    return [Child(*row) for row in await tx.fetch(NEWEST_CHILDREN, *wanted.arguments())]


async def oldest_children(tx: Tx, wanted: Wanted) -> list[Child]:
    """List children, the oldest first."""
    return [Child(*row) for row in await tx.fetch(OLDEST_CHILDREN, *wanted.arguments())]


async def newest_family(tx: Tx, wanted: Wanted) -> list[Child]:
    """List children and their children, up to three hops away, the newest first."""
    return [Child(*row) for row in await tx.fetch(NEWEST_FAMILY, *wanted.arguments())]


async def oldest_family(tx: Tx, wanted: Wanted) -> list[Child]:
    """List children and their children, up to three hops away, the oldest first."""
    return [Child(*row) for row in await tx.fetch(OLDEST_FAMILY, *wanted.arguments())]


class ThreadsWanted(NamedTuple):
    """Which of a room's threads are wanted: so many, with a last reply numbered below `before`.

    Replies of the `ignored` are as if they were not there. `participant` "" is everybody.
    """

    room_id: str
    before: int
    limit: int
    ignored: Sequence[str]
    participant: str = ""


async def threads(tx: Tx, wanted: ThreadsWanted) -> list[tuple[str, int]]:
    """List (root, number of the last reply) of a room's threads, the latest first."""
    arguments = (*wanted[:3], list(wanted.ignored), wanted.participant)
    found = [(row[0], row[1]) for row in await tx.fetch(THREADS, *arguments)]
    if not wanted.ignored:
        return found
    # Threads are only moved down, so of the others none that lies lower belongs on this page.
    end = found[-1][1] if len(found) == wanted.limit else BEFORE_ALL
    places = dict(found)
    moved = await tx.fetch(THREADS_MOVED_DOWN, *arguments, end)
    places.update((row[0], row[1]) for row in moved)
    return sorted(places.items(), key=lambda one: -one[1])[: wanted.limit]
