"""Reads of relations: children of events, rows for bundled aggregations, and threads."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql

BEFORE_ALL: Final = -(10**18)
"""Lower than any stream ID, including the negative ones of events older than our stream."""

# All references to the events, and per event the latest $2 edits by its own sender.
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
HAS_CHILDREN = "SELECT 1 FROM relations WHERE parent_id = $1 AND room_id = $2 LIMIT 1"
RELATED = (
    "SELECT event_id, rel_type, sender FROM relations "
    "WHERE parent_id = $1 AND room_id = $2 ORDER BY depth, stream_id LIMIT $3"
)
_COLUMNS = "SELECT r.event_id, r.depth, r.stream_id FROM relations r"
_BETWEEN = "(r.depth, r.stream_id) > ($4, $5) AND (r.depth, r.stream_id) <= ($6, $7)"
_WHERE = f"r.room_id = $2 AND (r.type = $3 OR $3 = '') AND {_BETWEEN}"
_NEWEST_FIRST = "ORDER BY r.depth DESC, r.stream_id DESC LIMIT $8"
_OLDEST_FIRST = "ORDER BY r.depth, r.stream_id LIMIT $8"
_CHILD = f"r.parent_id = $1 AND r.rel_type = $9 AND {_WHERE}"
NEWEST_CHILDREN = f"{_COLUMNS} WHERE {_CHILD} {_NEWEST_FIRST}"
OLDEST_CHILDREN = f"{_COLUMNS} WHERE {_CHILD} {_OLDEST_FIRST}"
# The index of children begins with their relation, so children of any relation are merged from
# those of each. Beyond MAX_REL_TYPES, which no client needs, all children are sorted.
MAX_REL_TYPES: Final = 16
REL_TYPES = f"""
WITH RECURSIVE found (rel_type) AS (
    SELECT min(rel_type) FROM relations WHERE parent_id = $1
    UNION ALL
    SELECT (SELECT min(r.rel_type) FROM relations r
            WHERE r.parent_id = $1 AND r.rel_type > found.rel_type)
    FROM found WHERE found.rel_type IS NOT NULL
)
SELECT rel_type FROM found WHERE rel_type IS NOT NULL LIMIT {MAX_REL_TYPES + 1}
"""
_ANY_CHILD = f"r.parent_id = $1 AND {_WHERE}"
NEWEST_OF_ALL_CHILDREN = f"{_COLUMNS} WHERE {_ANY_CHILD} {_NEWEST_FIRST}"
OLDEST_OF_ALL_CHILDREN = f"{_COLUMNS} WHERE {_ANY_CHILD} {_OLDEST_FIRST}"
# UNION, not UNION ALL: events of hostile servers may relate to each other in a cycle.
_DESCENDANTS = """
RECURSIVE descendants (event_id, hops) AS (
    SELECT event_id, 1 FROM relations WHERE parent_id = $1
    UNION
    SELECT c.event_id, p.hops + 1 FROM relations c JOIN descendants p ON c.parent_id = p.event_id
    WHERE p.hops < 3
)
"""
_IS_DESCENDANT = (
    "WHERE r.event_id IN (SELECT event_id FROM descendants) "
    f"AND (r.rel_type = $9 OR $9 = '') AND {_WHERE}"
)
NEWEST_DESCENDANTS = f"WITH {_DESCENDANTS} {_COLUMNS} {_IS_DESCENDANT} {_NEWEST_FIRST}"
OLDEST_DESCENDANTS = f"WITH {_DESCENDANTS} {_COLUMNS} {_IS_DESCENDANT} {_OLDEST_FIRST}"
# The sender of the root participates too. Not EXISTS: PostgreSQL might start from all events that
# the user ever sent.
_PARTICIPATES = """
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
        f"AND (l.sender IS NULL OR {d.none_of('l.sender', 4, 'text')}) AND {_PARTICIPATES} "
        "ORDER BY t.latest_stream_id DESC LIMIT $3"
    )
)
# A thread whose last reply is by an ignored user is sorted by its last reply by another user.
# MATERIALIZED fixes the order of the steps: looking into a thread costs more than skipping it.
THREADS_MOVED_DOWN = sql(
    lambda d: (
        "WITH moved AS MATERIALIZED ("
        "SELECT t.root_id FROM threads t JOIN relations l ON l.event_id = t.latest_event_id "
        "WHERE t.room_id = $1 AND t.latest_stream_id > $6 "
        f"AND {d.any_of('l.sender', 4, 'text')}"
        "), placed AS MATERIALIZED ("
        "SELECT t.root_id, (SELECT max(r.stream_id) FROM relations r "
        "WHERE r.parent_id = t.root_id AND r.rel_type = 'm.thread' "
        f"AND {d.none_of('r.sender', 4, 'text')}) AS place FROM moved t WHERE {_PARTICIPATES}"
        ") SELECT root_id, place FROM placed WHERE place < $2 AND place > $6 "
        "ORDER BY place DESC LIMIT $3"
    )
)


class RelationLink(NamedTuple):
    """An edit of an event, or a reference to it."""

    parent_id: str
    event_id: str
    rel_type: str


class ThreadSummary(NamedTuple):
    """The last reply of a thread, and the number of replies."""

    root_id: str
    latest_event_id: str
    replies: int


class AggregationRows(NamedTuple):
    """The rows from which bundled aggregations of several events are built."""

    linked: list[RelationLink]
    threads: list[ThreadSummary]
    repliers: list[tuple[str, str, int]]  # (root, sender, replies)


class ChildEvent(NamedTuple):
    """A child event and its position in the room's history."""

    event_id: str
    depth: int
    stream_id: int


async def load_aggregations(tx: Tx, event_ids: Sequence[str], max_edits: int) -> AggregationRows:
    """Load what bundled aggregations need, with at most `max_edits` edits per event."""
    ids = list(event_ids)
    linked = [RelationLink(*row) for row in await tx.fetch(LINKED, ids, max_edits)]
    summaries = [ThreadSummary(*row) for row in await tx.fetch(THREADS_OF, ids)]
    repliers: list[tuple[str, str, int]] = []
    if summaries:
        rows = await tx.fetch(REPLIERS, [thread.root_id for thread in summaries])
        repliers = [(row[0], row[1], row[2]) for row in rows]
    return AggregationRows(linked, summaries, repliers)


async def latest_replies_except(
    tx: Tx, root_ids: Sequence[str], senders: Sequence[str]
) -> dict[str, str]:
    """Return the last reply in each thread whose sender is not one of `senders`."""
    rows = await tx.fetch(LATEST_REPLIES_BUT, list(root_ids), list(senders))
    return {row[0]: row[1] for row in rows if row[1] is not None}


async def list_children(tx: Tx, event_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """List (parent, rel_type, sender) of the children of events."""
    return [(row[0], row[1], row[2]) for row in await tx.fetch(CHILDREN, list(event_ids))]


async def has_children(tx: Tx, room_id: str, event_id: str) -> bool:
    """Return whether an event of a room relates to an event, which need not be stored."""
    return bool(await tx.fetch(HAS_CHILDREN, event_id, room_id))


class RelatedEvent(NamedTuple):
    """An event that relates to another one."""

    event_id: str
    rel_type: str
    sender: str


async def list_related(tx: Tx, room_id: str, event_id: str, limit: int) -> list[RelatedEvent]:
    """List the first events of a room that relate to an event."""
    return [RelatedEvent(*row) for row in await tx.fetch(RELATED, event_id, room_id, limit)]


class ChildrenQuery(NamedTuple):
    """A query for children of an event; positions are (depth, stream_id), "" matches everything."""

    room_id: str
    parent_id: str
    rel_type: str
    event_type: str
    after: tuple[int, int]
    upto: tuple[int, int]
    limit: int

    def arguments(self) -> tuple[object, ...]:
        """Return the parameters of the statements, `rel_type` last."""
        return (
            self.parent_id,
            self.room_id,
            self.event_type,
            *self.after,
            *self.upto,
            self.limit,
            self.rel_type,
        )


async def newest_children(tx: Tx, query: ChildrenQuery) -> list[ChildEvent]:
    """List children, newest first."""
    children = await _children(tx, query, NEWEST_CHILDREN, NEWEST_OF_ALL_CHILDREN)
    return sorted(children, key=_position, reverse=True)[: query.limit]


async def oldest_children(tx: Tx, query: ChildrenQuery) -> list[ChildEvent]:
    """List children, oldest first."""
    children = await _children(tx, query, OLDEST_CHILDREN, OLDEST_OF_ALL_CHILDREN)
    return sorted(children, key=_position)[: query.limit]


async def _children(
    tx: Tx, query: ChildrenQuery, of_rel_type: str, of_all: str
) -> list[ChildEvent]:
    """Return the requested children, and perhaps more, in no particular order."""
    rel_types = [query.rel_type]
    if not query.rel_type:
        rel_types = [row[0] for row in await tx.fetch(REL_TYPES, query.parent_id)]
    if len(rel_types) > MAX_REL_TYPES:
        return [ChildEvent(*row) for row in await tx.fetch(of_all, *query.arguments()[:-1])]
    return [
        ChildEvent(*row)
        for rel_type in rel_types
        for row in await tx.fetch(of_rel_type, *query._replace(rel_type=rel_type).arguments())
    ]


def _position(child: ChildEvent) -> tuple[int, int]:
    return (child.depth, child.stream_id)


async def newest_descendants(tx: Tx, query: ChildrenQuery) -> list[ChildEvent]:
    """List descendants up to three hops away, newest first."""
    return [ChildEvent(*row) for row in await tx.fetch(NEWEST_DESCENDANTS, *query.arguments())]


async def oldest_descendants(tx: Tx, query: ChildrenQuery) -> list[ChildEvent]:
    """List descendants up to three hops away, oldest first."""
    return [ChildEvent(*row) for row in await tx.fetch(OLDEST_DESCENDANTS, *query.arguments())]


class ThreadsQuery(NamedTuple):
    """A query for up to `limit` threads of a room with a last reply before stream ID `before`.

    Replies of `ignored` users do not count. A `participant` of "" matches all threads.
    """

    room_id: str
    before: int
    limit: int
    ignored: Sequence[str]
    participant: str = ""


async def threads(tx: Tx, query: ThreadsQuery) -> list[tuple[str, int]]:
    """List (root, stream ID of the last reply) of a room's threads, latest first."""
    args = (*query[:3], list(query.ignored), query.participant)
    threads_on_page = [(row[0], row[1]) for row in await tx.fetch(THREADS, *args)]
    if not query.ignored:
        return threads_on_page
    # Ignoring a reply only moves a thread down. A moved thread that is now below the last thread of
    # a full page cannot belong to that page.
    end = threads_on_page[-1][1] if len(threads_on_page) == query.limit else BEFORE_ALL
    positions = dict(threads_on_page)
    moved = await tx.fetch(THREADS_MOVED_DOWN, *args, end)
    positions.update((row[0], row[1]) for row in moved)
    return sorted(positions.items(), key=lambda thread: -thread[1])[: query.limit]
