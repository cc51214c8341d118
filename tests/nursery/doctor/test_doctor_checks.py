"""What `hs doctor` finds in a database, among processes, and at the public address."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from hs.core.signing.keys import SigningKey
from hs.core.streams import EVENTS
from hs.lib.http_client import NO_HEADERS, HttpResponse, HttpUnreachable
from hs.nursery.doctor.database_checks import (
    invariant_steps,
    lease_steps,
    running_by_leases,
    slot_steps,
)
from hs.nursery.doctor.process_checks import process_steps
from hs.nursery.doctor.proxy_checks import check_addresses
from hs.repl.leases import holder_name
from hs.repl.process_reports import ProcessReport, ReportedFault
from hs.services.federation_client.peer_check import CheckStep
from hs.storage.database import Database, Tx
from hs.storage.invariants import HeldLease
from hs.storage.stream_slots import SlotRecord
from tests.cli.test_topology import MAIN

KEY = SigningKey.from_seed("a", bytes(32))
REPORT = attrs.evolve(MAIN, signing_key=KEY.verify_key.base64, now_ms=50_000)
GONE = "w1@elsewhere:1:2:3/a"
BASE = "https://matrix.example.org"


async def failed_in(database: Database) -> dict[str, str]:
    return {
        step.subject: step.finding
        async for step in invariant_steps(database)
        if step.is_good is not True
    }


async def execute(tx: Tx, statement: str) -> None:
    await tx.execute(statement)


async def test_empty_database_has_no_faults(database: Database) -> None:
    assert await failed_in(database) == {}


BROKEN = {
    "rows beyond positions": (
        "INSERT INTO device_list_changes VALUES (7, '@a:b', 'D', 0, 0, NULL)",
        "positions",
        "device_lists",
    ),
    "sequence behind positions": (
        f"INSERT INTO stream_positions VALUES ('{EVENTS.name}', 'main', 1000, '')",
        "stream IDs",
        "events",
    ),
    "room without create event": (
        "INSERT INTO room_heads VALUES ('!a:b', '[]', 1, 1, 1, NULL)",
        "rooms",
        "!a:b",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_invariant_is_found(name: str, database: Database) -> None:
    statement, subject, expected = BROKEN[name]
    await database.write(execute, statement)

    failed = await failed_in(database)

    assert failed.keys() == {subject}
    assert failed[subject].endswith(f": {expected}")


def results(steps: Any) -> list[tuple[bool | None, str]]:
    return [(step.is_good, step.finding) for step in steps]


def test_leases_of_running_processes_are_good() -> None:
    held = [
        HeldLease("instance:main", holder_name("main"), 60_000),
        HeldLease("duty:pushers", holder_name("main"), 60_000),
        HeldLease("duty:stats", GONE, 60_000),  # on another host: it is not expired yet
    ]

    assert results(lease_steps(held, 50_000)) == [(True, "3 held, none by a process that is gone")]


def test_leases_of_dead_processes_are_told() -> None:
    life, _, _ = holder_name("w1").rpartition("/")
    dead = f"{life}9/abc"  # of a process that started at another moment
    held = [
        HeldLease("duty:pushers", GONE, 10_000),
        HeldLease("instance:w1", GONE, 10_000),
        HeldLease("duty:stats", dead, 60_000),
    ]

    assert [
        (good, text.partition(",")[0]) for good, text in results(lease_steps(held, 50_000))
    ] == [
        (False, f"nobody does 'pushers' since {GONE} ceased to"),
        (None, "process w1 was killed and not started again"),
        (False, f"duty:stats is held for 10 s by {dead}"),
    ]


SLOTS = [SlotRecord("events", slot, "w1" if slot < 100 else "w2", 1) for slot in range(256)]


def test_slots_of_running_writers_are_good() -> None:
    steps = slot_steps(SLOTS, {"w1", "w2"}, {"events": ("w1", "w2", "w3")})
    assert results(steps) == [
        (True, "w1 holds 100 slots of events"),
        (True, "w2 holds 156 slots of events"),
    ]


def test_slots_that_nobody_writes_are_told() -> None:
    steps = slot_steps(SLOTS, {"w1"}, {"events": ("w2", "w3")})
    not_configured = "but is not configured to write them: start a writer of events"
    not_running = "but does not run: it, or another writer, has to be started"
    assert results(steps) == [
        (False, f"w1 holds 100 slots of events, {not_configured}"),
        (False, f"w2 holds 156 slots of events, {not_running}"),
    ]


def test_killed_process_does_not_run_once_its_lease_has_expired() -> None:
    leases = [HeldLease("instance:w1", GONE, 50_000), HeldLease("duty:w2", GONE, 99_000)]

    assert running_by_leases(leases, 49_000) == {"w1"}
    assert running_by_leases(leases, 51_000) == set()


def test_slots_from_a_time_when_several_processes_wrote_a_stream_do_not_count() -> None:
    former = [SlotRecord("receipts", slot, "gone", 1) for slot in range(256)]

    assert slot_steps(former, {"w1"}, {"events": ("w1",)}) == []


def test_server_of_one_process_has_no_slots() -> None:
    assert slot_steps([], [], {"events": ("main",)}) == []


def test_processes_that_agree_are_good() -> None:
    steps = list(process_steps({"main": REPORT}, KEY, 49_000, 51_000))

    assert all(step.is_good for step in steps)


DISAGREEING: dict[str, tuple[ProcessReport | str, str, str]] = {
    "not reached": ("connection refused", "processes", "sync1 is not reached: connection refused"),
    "degraded": (
        attrs.evolve(
            REPORT,
            instance="sync1",
            state="degraded",
            faults=(
                ReportedFault(
                    code="process_hung",
                    subject="w",
                    message="w hangs",
                    state="degraded",
                    since_ms=1,
                ),
            ),
        ),
        "processes",
        "sync1 is degraded: w hangs",
    ),
    "other key": (
        attrs.evolve(REPORT, instance="sync1", signing_key="other"),
        "signing key",
        "sync1 has another signing key (other) than these files",
    ),
    "other time": (
        attrs.evolve(REPORT, instance="sync1", now_ms=1_000),
        "clock",
        "that of sync1 and of this host differ by 48 s",
    ),
}


@pytest.mark.parametrize("name", DISAGREEING)
def test_process_that_differs_is_told(name: str) -> None:
    other, subject, finding = DISAGREEING[name]

    steps = process_steps({"main": REPORT, "sync1": other}, KEY, 49_000, 51_000)

    assert CheckStep(subject, finding, False) in list(steps)


@attrs.frozen
class FixedPages:
    """An HTTP client that gets fixed pages."""

    pages: Mapping[str, tuple[int, Any]]

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = 1.0,
        max_bytes: int = 1,
        redirects: int = 0,
    ) -> HttpResponse:
        if url not in self.pages:
            raise HttpUnreachable("connection refused")
        status, content = self.pages[url]
        return HttpResponse(status, {}, json.dumps(content).encode(), url)


VERSIONS = f"{BASE}/_matrix/client/versions"
WELL_KNOWN = "https://example.org/.well-known/matrix/client"
CALLS = f"{BASE}/_synapse/replication/calls"
GOOD_PAGES = {
    VERSIONS: (200, {"versions": ["v1.1"]}),
    CALLS: (404, {}),
    WELL_KNOWN: (200, {"m.homeserver": {"base_url": f"{BASE}/"}}),
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [True, True], id="good"),
        pytest.param({VERSIONS: (502, {})}, [False], id="proxy without server"),
        pytest.param({VERSIONS: (200, {"versons": 1})}, [False], id="another program"),
        pytest.param({CALLS: (401, {})}, [True, False, True], id="replication is public"),
        pytest.param({WELL_KNOWN: (404, {})}, [True, None], id="no well-known file"),
        pytest.param({WELL_KNOWN: (200, {})}, [True, False], id="wrong well-known file"),
    ],
)
async def test_public_address_is_checked(
    changes: dict[str, tuple[int, Any]], expected: list[bool | None]
) -> None:
    steps: list[CheckStep] = []
    client = FixedPages({**GOOD_PAGES, **changes})

    await check_addresses(client, BASE + "/", "example.org", steps.append)

    assert [step.is_good for step in steps] == expected


async def test_address_that_nobody_answers_is_told() -> None:
    steps: list[CheckStep] = []

    await check_addresses(FixedPages({}), BASE, "example.org", steps.append)

    assert results(steps) == [(False, f"{BASE} does not answer: connection refused")]
