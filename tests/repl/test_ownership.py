"""Ownership: every process gives the same answer, and shards are even and stable."""

from collections import Counter

import pytest

from hs.repl.ownership import Location, Ownership, Topology, shard_of
from hs.repl.streams import CACHES, CATALOGUE, EVENTS, TYPING, Kind

LOCATIONS = {name: Location("localhost", 9000) for name in ("main", "w1", "w2", "w3")}
WRITERS = {"events": ("w1", "w2", "w3"), "typing": ("w1",)}


def at(instance: str, writers: dict[str, tuple[str, ...]] = WRITERS) -> Ownership:
    return Ownership(Topology(instance, "main", writers, LOCATIONS))


def test_the_monolith_owns_everything() -> None:
    alone = Ownership(Topology("main", "main"))

    assert all(alone.is_mine(stream, "!room") for stream in CATALOGUE)
    assert alone.expected() == []


def test_all_processes_agree_on_the_owner_of_a_room() -> None:
    rooms = [f"!room{number}:example.org" for number in range(1000)]

    answers = [[at(name).owner(EVENTS, room) for room in rooms] for name in LOCATIONS]

    assert all(answer == answers[0] for answer in answers)
    assert min(Counter(answers[0]).values()) > 250


def test_shards_are_the_same_in_every_release() -> None:
    assert [shard_of(key, 7) for key in ("!a:x", "!b:x", "!c:x")] == [0, 1, 4]


def test_every_instance_writes_its_own_part_of_a_common_stream() -> None:
    assert at("w2").owner(CACHES) == "w2"
    assert at("w2").writers(CACHES) == ("main", "w1", "w2", "w3")


def test_expected_writers_are_those_of_other_processes() -> None:
    expected = at("w1").expected()

    assert (EVENTS, "w2") in expected
    assert (EVENTS, "w1") not in expected
    assert (TYPING, "w1") not in expected
    assert (CACHES, "main") in expected


def test_a_stream_that_is_not_sharded_has_one_writer() -> None:
    with pytest.raises(ValueError, match="only one writer"):
        at("w1", {"typing": ("w1", "w2")}).owner(TYPING)


def test_streams_of_tables_are_named_once() -> None:
    names = [stream.name for stream in CATALOGUE]

    assert len(set(names)) == len(names)
    assert {stream.name for stream in CATALOGUE if stream.kind is Kind.TABLE} >= {"events"}
