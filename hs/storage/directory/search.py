"""The full-text index of messages, names and topics, and the position up to which it is filled.

On PostgreSQL an entry repeats the room, type, sender and time of its event. On SQLite it has its
words only, and hits are joined with their events.

Encoding: the PostgreSQL column is a tsvector, SQLite uses an FTS5 table. Words consist of letters
and digits only, so nothing in them needs escaping. A tsvector keeps at most 255 positions of a
word; further occurrences are stored under the word with "#1", "#2", … appended. Phrase queries
match those too; a query for a single word needs only its first position.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import orjson

from hs.core.search_words import Phrase, SearchQuery
from hs.storage.database import Row, Tx
from hs.storage.dialect import POSTGRES, Dialect, Engine, Statement, sql
from hs.storage.rooms.stored_pdus import expand_pdu

_ENTRY: Final = (
    "stream_id bigint, room_id text, type text, sender text, origin_server_ts bigint, words text"
)


def _insert(d: Dialect) -> str:
    columns, values = "stream_id, words", "n.stream_id, n.words"
    if d.engine == "postgres":
        columns = "stream_id, room_id, type, sender, origin_server_ts, words"
        values = "n.stream_id, n.room_id, n.type, n.sender, n.origin_server_ts, n.words::tsvector"
    return (
        f"INSERT INTO search_entries ({columns}) SELECT {values} "
        f"FROM {d.json_rows('n', _ENTRY, 1)} WHERE true ON CONFLICT (stream_id) DO NOTHING"
    )


# One statement for all entries: at the end of each, FTS5 writes its index.
INSERT = sql(_insert)
DELETE = sql(lambda d: f"DELETE FROM search_entries WHERE {d.any_of('stream_id', 1, 'bigint')}")
DELETE_ROOMS = sql(
    lambda d: (
        "DELETE FROM search_entries WHERE stream_id IN "
        f"(SELECT stream_id FROM events WHERE {d.any_of('room_id', 1, 'text')})"
    )
)
ENCRYPTED_ROOMS = sql(
    lambda d: (
        "SELECT room_id FROM current_state WHERE type = 'm.room.encryption' AND state_key = '' "
        f"AND {d.any_of('room_id', 1, 'text')}"
    )
)
_TEXTS: Final = (
    "e.stream_id, e.event_id, e.room_id, e.type, e.sender, e.origin_server_ts, e.status, "
    "e.redacted_by, e.pdu"
)
_KINDS: Final = (
    "type IN ('m.room.message', 'm.room.name', 'm.room.topic', 'm.room.redaction', "
    "'m.room.encryption') AND (type IN ('m.room.message', 'm.room.redaction') OR state_key = '')"
)


def _log(comparison: str, order: str) -> str:
    """Return the query for events beyond a position, also for outliers that were placed there."""
    return f"""
SELECT * FROM (
    SELECT * FROM (
        SELECT e.stream_id AS position, {_TEXTS} FROM events e
        WHERE e.stream_id {comparison} $1 AND {_KINDS} ORDER BY e.stream_id {order} LIMIT $2
    ) stored UNION ALL SELECT * FROM (
        SELECT p.position, {_TEXTS} FROM placed_outliers p JOIN events e ON e.stream_id = p.number
        WHERE p.position {comparison} $1 AND {_KINDS} ORDER BY p.position {order} LIMIT $2
    ) placed
) log ORDER BY position {order} LIMIT $2
"""


NEWER = _log(">", "ASC")
OLDER = _log("<", "DESC")
REDACTED_BY = sql(
    lambda d: (
        "SELECT e.stream_id FROM redactions r JOIN events e ON e.event_id = r.redacts "
        f"WHERE {d.any_of('r.redaction_id', 1, 'text')} AND e.redacted_by IS NOT NULL"
    )
)
MAX_COUNT: Final = 1000
MAX_STREAM_ID: Final = 2**62
WALKED_FIRST: Final = 512
WALKED: Final = 8192
MAX_ROOMS_WALKED: Final = 32
PROGRESS = "SELECT position FROM search_progress WHERE name = $1"
SET_PROGRESS = """
INSERT INTO search_progress (name, position) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""
HIGHEST = "SELECT max(stream_id) FROM events"
# $1 query, $2 rooms, $3 types; $4 is 1 if only the senders in $5 match.
_HITS: Final = sql(
    lambda d: (
        f"SELECT e.stream_id, e.room_id, e.origin_server_ts, {d.search_rank(1)} AS score "
        f"FROM {d.search_table()} WHERE {d.search_match(1)} "
        f"AND {d.any_of('e.room_id', 2, 'text')} AND {d.any_of('e.type', 3, 'text')} "
        f"AND ($4 = 0 OR {d.any_of('e.sender', 5, 'text')}) "
        "AND EXISTS (SELECT 1 FROM events v WHERE v.stream_id = e.stream_id "
        "AND v.status = 0 AND v.redacted_by IS NULL)"
    )
)


def _hits(engine: Engine) -> str:
    return _HITS.postgres if engine == "postgres" else _HITS.sqlite


BY_RANK = sql(
    lambda d: (
        f"SELECT * FROM ({_hits(d.engine)}) hits "
        "WHERE score < $6 OR (score = $6 AND stream_id < $7) "
        "ORDER BY score DESC, stream_id DESC LIMIT $8"
    )
)
# Order of arrival: the index of words has it on SQLite, none has it on PostgreSQL. There the latest
# WALKED entries are read, of which a common word has enough, and only then the index of words.
_COLUMNS: Final = "e.stream_id, e.room_id, e.origin_server_ts, CAST(0 AS REAL) AS score"


def _scope(d: Dialect) -> str:
    return (
        f"{d.any_of('e.room_id', 2, 'text')} AND {d.any_of('e.type', 3, 'text')} "
        f"AND ($4 = 0 OR {d.any_of('e.sender', 5, 'text')})"
    )


# The index may not know of a redaction yet.
_EXISTS: Final = (
    "EXISTS (SELECT 1 FROM events v WHERE v.stream_id = e.stream_id "
    "AND v.status = 0 AND v.redacted_by IS NULL)"
)
LATEST = sql(
    lambda d: (
        f"SELECT {_COLUMNS} FROM {d.search_table()} WHERE {d.search_match(1)} "
        f"AND {d.search_rowid()} < $6 AND {_scope(d)} AND {_EXISTS} "
        f"ORDER BY {d.search_rowid()} DESC LIMIT $7"
    )
)
COUNT = sql(
    lambda d: (
        f"SELECT count(*) FROM (SELECT 1 FROM {d.search_table()} "
        f"WHERE {d.search_match(1)} AND {_scope(d)} LIMIT $6) counted"
    )
)
# Without statistics, PostgreSQL would sort whole rooms instead of walking an index.
WALK_INDEXES = Statement(
    "SELECT set_config('enable_bitmapscan', $1, true), set_config('enable_seqscan', $1, true)",
    "SELECT ?1",
)
# $6 below, $7 limit, $8 entries to walk (in each room, above the stream ID $9).
_WALK_ALL: Final = """
(SELECT * FROM search_entries WHERE stream_id < $6 ORDER BY stream_id DESC LIMIT $8)
"""
_WALK_ROOMS: Final = """
(SELECT s.* FROM unnest($2::text[]) AS w(room_id) CROSS JOIN LATERAL (
    SELECT * FROM search_entries t WHERE t.room_id = w.room_id AND t.stream_id < $6
    ORDER BY t.stream_id DESC LIMIT $8
) s WHERE s.stream_id > $9)
"""
WALK_FLOOR = Statement(
    "SELECT max(place) FROM (SELECT (SELECT t.stream_id FROM search_entries t "
    "WHERE t.room_id = w.room_id AND t.stream_id < $2 "
    "ORDER BY t.stream_id DESC LIMIT 1 OFFSET $3) AS place "
    f"FROM {POSTGRES.unnest('w', 'room_id text')}) places",
    "SELECT ?1, ?2, ?3",
)


def _walked(walk: str) -> str:
    return (
        f"SELECT {_COLUMNS} FROM {walk} e WHERE {POSTGRES.search_match(1)} "
        f"AND {_scope(POSTGRES)} AND {_EXISTS} ORDER BY e.stream_id DESC LIMIT $7"
    )


def _count_walked(walk: str) -> str:
    return (
        f"SELECT count(*) FROM (SELECT 1 FROM {walk} e "
        f"WHERE {POSTGRES.search_match(1)} AND {_scope(POSTGRES)} LIMIT $7) counted"
    )


LATEST_WALKED = Statement(_walked(_WALK_ALL), LATEST.sqlite)
LATEST_WALKED_IN_ROOMS = Statement(_walked(_WALK_ROOMS), LATEST.sqlite)
COUNT_WALKED = Statement(_count_walked(_WALK_ALL), COUNT.sqlite)
COUNT_WALKED_IN_ROOMS = Statement(_count_walked(_WALK_ROOMS), COUNT.sqlite)
MAX_POSITIONS: Final = 255
_NO_SENDERS: Final[Sequence[str]] = ()


class IndexableEvent(NamedTuple):
    """An event that may contain text, or redacts another event; `position` is that in its log."""

    position: int
    stream_id: int
    event_id: str
    room_id: str
    type: str
    sender: str
    origin_server_ts: int
    status: int
    redacted_by: str | None
    pdu: bytes


class IndexEntry(NamedTuple):
    """An entry of the index."""

    stream_id: int
    room_id: str
    type: str
    sender: str
    origin_server_ts: int
    words: Sequence[str]


class IndexRemovals(NamedTuple):
    """Entries to remove: of events redacted by these redactions, and of these rooms."""

    redactions: Sequence[str]
    rooms: Sequence[str]


class MessageSearchQuery(NamedTuple):
    """A query and its scope; `senders` None means all senders."""

    query: SearchQuery
    room_ids: Sequence[str]
    types: Sequence[str]
    senders: Sequence[str] | None


class SearchHit(NamedTuple):
    """A matching event."""

    stream_id: int
    room_id: str
    origin_server_ts: int
    score: float


async def update_index(
    tx: Tx, entries: Sequence[IndexEntry], removals: IndexRemovals, name: str, position: str
) -> None:
    """Add entries, delete removed ones, and store the progress."""
    encode = _ENCODE_WORDS[tx.dialect.engine]
    if entries:
        rows = [(*entry[:-1], encode(entry.words)) for entry in entries]
        await tx.execute(INSERT, orjson.dumps(rows).decode())
    if removals.redactions:
        redacted = [row[0] for row in await tx.fetch(REDACTED_BY, list(removals.redactions))]
        await tx.execute(DELETE, redacted)
    if removals.rooms:
        await tx.execute(DELETE_ROOMS, list(removals.rooms))
    await tx.execute(SET_PROGRESS, name, position)


async def encrypted_rooms(tx: Tx, room_ids: Sequence[str]) -> set[str]:
    """Return those of the rooms that are end-to-end encrypted."""
    return {row[0] for row in await tx.fetch(ENCRYPTED_ROOMS, list(room_ids))}


async def remove(tx: Tx, stream_ids: Sequence[int]) -> None:
    """Delete the entries of events."""
    await tx.execute(DELETE, list(stream_ids))


async def list_events_after(tx: Tx, after: int, limit: int) -> list[IndexableEvent]:
    """List events after a position, in order."""
    return [_indexable(row) for row in await tx.fetch(NEWER, after, limit)]


async def list_events_before(tx: Tx, below: int, limit: int) -> list[IndexableEvent]:
    """List events before a position, latest first."""
    return [_indexable(row) for row in await tx.fetch(OLDER, below, limit)]


async def load_progress(tx: Tx, name: str) -> str | None:
    """Return the stored progress of the index; None if it has not begun."""
    position: str | None = await tx.fetchval(PROGRESS, name)
    return position


async def highest_stream_id(tx: Tx) -> int:
    """Return the highest stream ID of all events; 0 if there are none."""
    number: int | None = await tx.fetchval(HIGHEST)
    return number or 0


async def list_by_rank(
    tx: Tx, search: MessageSearchQuery, below: tuple[float, int], limit: int
) -> list[SearchHit]:
    """List hits after (score, stream_id), best first."""
    return [
        SearchHit(*row) for row in await tx.fetch(BY_RANK, *_arguments(tx, search), *below, limit)
    ]


async def list_latest(
    tx: Tx, search: MessageSearchQuery, below: int, limit: int
) -> list[SearchHit]:
    """List hits below a stream ID in the order of their arrival, latest first."""
    args = (*_arguments(tx, search), below, limit)
    if tx.dialect.engine == "postgres":
        await tx.execute(WALK_INDEXES, "off")
        for walked in (WALKED_FIRST, WALKED):
            hits = await _walk(tx, search, args, walked)
            if len(hits) == limit:
                return hits
        await tx.execute(WALK_INDEXES, "on")
    return [SearchHit(*row) for row in await tx.fetch(LATEST, *args)]


async def _walk(
    tx: Tx, search: MessageSearchQuery, args: tuple[object, ...], walked: int
) -> list[SearchHit]:
    """List the latest hits among a number of the latest entries."""
    if len(search.room_ids) > MAX_ROOMS_WALKED:
        return [SearchHit(*row) for row in await tx.fetch(LATEST_WALKED, *args, walked)]
    in_each = walked // len(search.room_ids)
    # Further down, one of the rooms is not walked.
    floor = await tx.fetchval(WALK_FLOOR, list(search.room_ids), args[5], in_each)
    floor = -MAX_STREAM_ID if floor is None else floor
    rows = await tx.fetch(LATEST_WALKED_IN_ROOMS, *args, in_each, floor)
    return [SearchHit(*row) for row in rows]


async def count_hits(tx: Tx, search: MessageSearchQuery) -> int:
    """Count hits, up to MAX_COUNT; some of them may be redacted."""
    arguments = _arguments(tx, search)
    if tx.dialect.engine == "postgres":
        args = (*arguments, MAX_STREAM_ID, MAX_COUNT)
        await tx.execute(WALK_INDEXES, "off")
        if len(search.room_ids) > MAX_ROOMS_WALKED:
            counted = await tx.fetchval(COUNT_WALKED, *args, WALKED)
        else:
            in_each = WALKED // len(search.room_ids)
            counted = await tx.fetchval(COUNT_WALKED_IN_ROOMS, *args, in_each, -MAX_STREAM_ID)
        if counted == MAX_COUNT:
            return MAX_COUNT
        await tx.execute(WALK_INDEXES, "on")
    number: int = await tx.fetchval(COUNT, *arguments, MAX_COUNT)
    return number


def _indexable(row: Row) -> IndexableEvent:
    return IndexableEvent(*row)._replace(pdu=expand_pdu(bytes(row[9])))


def _arguments(tx: Tx, search: MessageSearchQuery) -> tuple[object, ...]:
    senders = search.senders
    return (
        _ENCODE_QUERY[tx.dialect.engine](search.query),
        list(search.room_ids),
        list(search.types),
        0 if senders is None else 1,
        list(senders or _NO_SENDERS),
    )


def _fts5_document(words: Sequence[str]) -> str:
    return " ".join(words)


def _tsvector(words: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    lexemes = []
    for position, word in enumerate(words, 1):
        before = counts.get(word, 0)
        counts[word] = before + 1
        suffix = "" if before < MAX_POSITIONS else f"#{before // MAX_POSITIONS}"
        lexemes.append(f"'{word}{suffix}':{position}")
    return " ".join(lexemes)


def _fts5_query(query: SearchQuery) -> str:
    text = " AND ".join(_fts5_phrase(phrase) for phrase in query.phrases)
    for phrase in query.excluded:
        text = f"({text}) NOT {_fts5_phrase(phrase)}"
    return text


def _fts5_phrase(phrase: Phrase) -> str:
    return f'"{" ".join(phrase)}"'


def _tsquery(query: SearchQuery) -> str:
    required = [_ts_phrase(phrase) for phrase in query.phrases]
    return " & ".join([*required, *(f"!{_ts_phrase(phrase)}" for phrase in query.excluded)])


def _ts_phrase(phrase: Phrase) -> str:
    if len(phrase) == 1:
        return f"'{phrase[0]}'"
    words = " <-> ".join(f"('{word}' | '{word}#':*)" for word in phrase)
    return f"({words})"


_ENCODE_WORDS: Final = {"postgres": _tsvector, "sqlite": _fts5_document}
_ENCODE_QUERY: Final = {"postgres": _tsquery, "sqlite": _fts5_query}
