"""What `hs topology` says about reports of processes."""

import attrs
import click

from hs.cli import rebalance
from hs.cli.topology import describe, unlisted
from hs.nursery.running_processes import problems_of
from hs.repl.process_reports import FollowedWriter, HeldSlots, ProcessReport, ReportedFault
from hs.settings.sections.workers import WorkerSettings
from tests.support.composition import SETTINGS

MAIN = ProcessReport(
    instance="main",
    app="synapse.app.homeserver",
    version="1.2.3",
    host="a.test",
    pid=7,
    running_s=7300.0,
    listeners=("127.0.0.1:9093: replication",),
    duties=("pushers",),
    leases=("instance:main",),
    writes={"events": 12},
    follows=(FollowedWriter(stream="typing", writer="sync1", position=5, lag=2, repairs=0),),
    calls=("sync1",),
    hears=("sync1", "sync9"),
    state="ready",
    faults=(),
    settings={"server_name": "aa", "rc_login": "bb"},
    signing_key="key",
    now_ms=7,
    slots={"events": HeldSlots(count=128, epoch=3)},
)
WORKER = attrs.evolve(MAIN, instance="sync1", duties=(), writes={}, calls=("main",), follows=())


def test_processes_that_agree_have_no_problems() -> None:
    assert list(problems_of({"main": MAIN, "sync1": WORKER})) == []


def test_description_tells_what_a_process_does() -> None:
    lines = [click.unstyle(line) for line in describe("main", MAIN)]

    assert lines == [
        "main  ready, version 1.2.3, process 7 on a.test, running for 2 hours",
        "    listens  127.0.0.1:9093: replication",
        "    duties   pushers",
        "    writes   events",
        "    slots    128 of events (epochs up to 3)",
        "    calls    sync1",
        "    lag      2 positions",
    ]
    assert [click.unstyle(line) for line in describe("sync1", "no connection in time")] == [
        "sync1  not reached: no connection in time"
    ]


def test_processes_without_a_listener_are_known_to_others() -> None:
    assert unlisted({"main": MAIN, "sync1": WORKER, "sync2": "away"}) == ["sync9"]


def test_each_problem_is_named() -> None:
    behind = FollowedWriter(stream="events", writer="persister1", position=1, lag=5000, repairs=3)
    other = attrs.evolve(
        WORKER,
        version="1.2.4",
        state="unready",
        faults=(
            ReportedFault(
                code="database_hung",
                subject="database",
                message="the database does not answer",
                state="unready",
                since_ms=7,
            ),
        ),
        follows=(behind,),
        settings={"server_name": "aa", "rc_login": "cc", "rc_joins": "dd"},
    )

    found: dict[str, ProcessReport | str] = {
        "main": MAIN,
        "sync1": other,
        "sync2": WORKER,
        "pusher1": "connection refused",
    }

    assert list(problems_of(found)) == [
        "sync1 is unready: the database does not answer",
        "sync1 is 5000 positions behind persister1 in stream events",
        "instance_map says that sync2 listens where sync1 does",
        "pusher1 is not reached: connection refused",
        "the processes run different versions: 1.2.3, 1.2.4",
        "sync1 has other settings than main: rc_joins, rc_login",
    ]


def test_rebalancing_tells_what_each_writer_gave() -> None:
    assert rebalance.describe("p1", {"p2": 64, "p3": 0}) == "p1 gave 64 to p2"
    assert rebalance.describe("p2", {}) == "p2 has no slots to give"


def test_rebalancing_asks_the_writers_of_rooms_only() -> None:
    writers = {**WorkerSettings().writers, "events": ("p2", "p1"), "typing": ("t1",)}
    workers = WorkerSettings(writers=writers)

    assert rebalance.writers_of(attrs.evolve(SETTINGS, workers=workers)) == ["p1", "p2"]
