"""Measures the CPU time of a message on one process and on a split server, and prints tables.

    python -m tests.workers_bench
    python -m tests.workers_bench --only split --scenario send

Both run on a private PostgreSQL; the split server is main, two sync workers or more, which share
the users, and two persisters. Figures are milliseconds of CPU for each message (`mixed`: for
each operation).

With `--scenario fan-out --sync-workers 1 --one-of 10`, the one sync worker is like one of ten: it
serves the syncs of every tenth member and no other request, and nobody serves those of the others.
So it can be brought to its limit on two cores, which ten cannot.
"""

import argparse
import sys
from pathlib import Path
from statistics import quantiles

import attrs
import trio

from tests.workers_bench.load import (
    Client,
    fan_out_for,
    make_clients,
    make_rooms,
    mixed_for,
    send_for,
)
from tests.workers_bench.measured_processes import (
    ALONE,
    SPLIT,
    MeasuredCluster,
    running_alone,
    running_split,
)

SCENARIOS = ("idle", "send", "fan-out", "mixed")
STORES = ("postgres", "redis")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=(ALONE, SPLIT))
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument(
        "--more", action="store_true", help="also a pusher, a sender, a media worker"
    )
    parser.add_argument("--sync-workers", type=int, default=2)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--send-rate", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=40.0, help="messages a second of fan-out")
    parser.add_argument(
        "--one-of", type=int, default=0, help="see above; only with fan-out, split, 1 sync worker"
    )
    parser.add_argument("--begin-file", help="made when a measurement begins, for a profiler")
    options = parser.parse_args()
    split = running_split(options.more, options.sync_workers)
    for label, running in ((ALONE, running_alone()), (SPLIT, split)):
        if options.only in (None, label):
            with running as server:
                trio.run(_measure, options, server)


def report(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@attrs.define
class Meter:
    """Measures the CPU times of the processes during a scenario."""

    server: MeasuredCluster
    before: dict[str, float] = attrs.Factory(dict)
    started: float = 0.0
    begin_file: str | None = None
    waits: dict[str, float] = attrs.Factory(dict)

    def start(self) -> None:
        """Begin to measure."""
        self.before = self.server.cpu_s()
        self.waits = self.server.waits()
        self.started = trio.current_time()
        if self.begin_file:
            Path(self.begin_file).touch()

    def end(self, scenario: str, count: float) -> None:
        """Print what each process used for each of `count` messages."""
        after = self.server.cpu_s()
        seconds = trio.current_time() - self.started
        each = {name: (after[name] - self.before.get(name, 0)) * 1000 / count for name in after}
        own = {name: ms for name, ms in each.items() if name not in STORES}
        busiest = max(own, key=lambda name: own[name])
        cells = [
            scenario,
            self.server.label,
            f"{count / seconds:.0f}/s",
            f"{sum(own.values()):.3f}",
            f"{sum(each.values()):.3f}",
            f"{busiest} {own[busiest]:.3f}",
            _listed(each, 3),
        ]
        report(f"| {' | '.join(cells)} |")
        waits = self.server.waits()
        each = {name: (waits[name] - self.waits[name]) / count for name in waits}
        report(f"  waits: {_listed(each, 2)}")


def _listed(values: dict[str, float], digits: int) -> str:
    return " ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


async def _measure(options: argparse.Namespace, server: MeasuredCluster) -> None:
    report(f"{server.label}: {server.pids()}")
    meter = Meter(server, begin_file=options.begin_file)
    for scenario in options.scenario or SCENARIOS:
        if scenario == "idle":
            await trio.sleep(5)
            meter.start()
            await trio.sleep(options.seconds)
            meter.end("idle, for each second", options.seconds)
        elif scenario == "send":
            clients = await make_clients(server.ports, options.senders, "sender")
            rooms = await make_rooms(clients, 20)
            await _join_some(clients, rooms)
            await send_for(clients, 2.0)
            meter.start()
            durations = await send_for(clients, options.seconds, options.send_rate)
            meter.end("send", len(durations))
            median, *_, highest = quantiles(durations, n=20)[9:]
            report(f"  each took {median * 1000:.1f} ms (median), {highest * 1000:.1f} ms (95 %)")
        elif scenario == "fan-out":
            await _measure_fan_out(options, server, meter)
        else:
            clients = await make_clients(server.ports, 50, "mixed")
            rooms = await make_rooms(clients, 20)
            await _join_some(clients, rooms)
            for client in clients:
                await client.sync(0)
            await mixed_for(clients, 2.0)
            meter.start()
            meter.end("mixed", await mixed_for(clients, options.seconds))


async def _measure_fan_out(
    options: argparse.Namespace, server: MeasuredCluster, meter: Meter
) -> None:
    sender_ports = [server.main_port] if options.one_of else server.ports
    senders = await make_clients(sender_ports, 8, "sender")
    members = await make_clients(server.ports, options.members, "member")
    (room,) = await make_rooms(members[:1], 1)
    for client in [*senders, *members[1:]]:
        await client.join(room)
    syncing = members[:: options.one_of or 1]
    sent = await fan_out_for(senders, syncing, options.seconds, options.rate, meter.start)
    meter.end("fan-out", sent)
    syncs = sum(member.syncs for member in syncing)
    report(f"syncs for each message: {syncs / sent:.1f}")


async def _join_some(clients: list[Client], rooms: list[str]) -> None:
    for number, client in enumerate(clients):
        for step in range(5):
            room = rooms[(number + step * 4) % len(rooms)]
            if room not in client.rooms:
                await client.join(room)


if __name__ == "__main__":
    main()
