"""Ownership: all processes agree, and shards are even and stable."""

from collections import Counter

import pytest

from hs.core.stream_def import ANY_PROCESS, StreamDef, StreamKind, StreamWriters
from hs.core.streams import (
    CACHES,
    CATALOGUE,
    EVENTS,
    PUSH_RULES,
    THREAD_SUBSCRIPTIONS,
    TYPING,
    CacheRow,
)
from hs.repl.ownership import Location, Ownership, Topology
from hs.repl.slots.assignment import shard_of
from hs.repl.slots.table import SlotTable

LOCATIONS = {name: Location("localhost", 9000) for name in ("main", "w1", "w2", "w3")}
WRITERS = {"events": ("w1", "w2", "w3"), "typing": ("w1",)}


def at(instance: str, writers: dict[str, tuple[str, ...]] = WRITERS) -> Ownership:
    topology = Topology(instance, "main", writers, LOCATIONS)
    slots = SlotTable(instance, {"events": writers.get("events", ("main",))})
    return Ownership(topology, slots)


def test_only_process_owns_everything() -> None:
    only = Ownership(Topology("main", "main"))

    assert all(only.is_mine(stream, "!room") for stream in CATALOGUE)
    assert only.expected() == []


def test_all_processes_agree_on_the_owner_of_a_room() -> None:
    rooms = [f"!room{number}:example.org" for number in range(1000)]

    owners = [[at(name).owner(EVENTS, room) for room in rooms] for name in LOCATIONS]

    assert all(of_process == owners[0] for of_process in owners)
    assert min(Counter(owners[0]).values()) > 250


def test_shards_are_the_same_in_every_release() -> None:
    assert [shard_of(key, 7) for key in ("!a:x", "!b:x", "!c:x")] == [0, 1, 4]


def test_every_process_writes_its_own_rows_of_a_common_stream() -> None:
    assert at("w2").owner(CACHES) == "w2"
    assert at("w2").writers(CACHES) == ("main", "w1", "w2", "w3")


def test_any_process_writes_a_common_table_under_one_name() -> None:
    stream = StreamDef("marks", CacheRow, StreamKind.TABLE, StreamWriters.ANY)

    assert all(at(name).writers(stream) == (ANY_PROCESS,) for name in LOCATIONS)
    assert all(at(name).writes(stream) for name in LOCATIONS)
    assert at("w2").owner(stream) == "w2"


def test_expected_writers_are_in_other_processes() -> None:
    expected = at("w1").expected()

    assert (EVENTS, "w2") in expected
    assert (EVENTS, "w1") not in expected
    assert (TYPING, "w1") not in expected
    assert (CACHES, "main") in expected


def test_several_writers_of_a_stream_that_is_not_sharded_are_refused() -> None:
    for stream in (PUSH_RULES, THREAD_SUBSCRIPTIONS):
        with pytest.raises(ValueError, match="only one writer"):
            at("w1", {stream.name: ("w1", "w2")}).owner(stream)


def test_streams_have_unique_names() -> None:
    names = [stream.name for stream in CATALOGUE]

    assert len(set(names)) == len(names)
    assert {stream.name for stream in CATALOGUE if stream.kind is StreamKind.TABLE} >= {"events"}
