"""Measures federation beside Synapse, and prints a table of CPU times in milliseconds.

    python -m tests.federation_bench --synapse /path/to/venv/bin/python
    python -m tests.federation_bench --earlier /path/to/another/checkout --only outbound
    python -m tests.federation_bench --only resolution

The servers run on one CPU, the stand-in servers and this program on another.
"""

import argparse
import os
import ssl
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from hs.nursery.boot import tune_garbage_collector
from tests.federation_bench.exchanges import Bench
from tests.federation_bench.figures import EARLIER, HS, SYNAPSE, Figures
from tests.federation_bench.forks import measure_resolution
from tests.federation_bench.measured_servers import (
    MeasuredServer,
    running_hs,
    running_synapse,
)
from tests.federation_bench.stand_ins import addresses, open_stand_ins
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.processes import free_ports

SCENARIOS = ("inbound", "outbound", "join", "join-of-synapse", "resolution")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--synapse", metavar="PYTHON", help="a Python that has Synapse")
    parser.add_argument(
        "--earlier", metavar="FOLDER", help="another checkout of hs, for comparison"
    )
    parser.add_argument("--only", action="append", choices=SCENARIOS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--members", type=int, nargs="+", default=[100, 5000])
    parser.add_argument("--joined-members", type=int, nargs="+", default=[5000, 10000])
    parser.add_argument("--transactions", type=int, default=10, help="in each round")
    parser.add_argument("--events", type=int, default=20, help="sent in each round")
    parser.add_argument("--destinations", type=int, default=300)
    parser.add_argument("--entries", type=int, default=5000, help="of each fork")
    parser.add_argument("--server-cpu", default="0")
    parser.add_argument("--own-cpu", type=int, default=1)
    options = parser.parse_args()
    figures = Figures()
    os.sched_setaffinity(0, {options.own_cpu})
    try:
        trio.run(_measure, options, figures)
    finally:
        _report("\n".join(["", *figures.lines()]))


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _measure(options: argparse.Namespace, figures: Figures) -> None:
    scenarios = options.only or SCENARIOS
    if "resolution" in scenarios:
        tune_garbage_collector()  # as a server does
        await measure_resolution(options.entries, options.rounds, figures, _report)
    exchanges = [name for name in scenarios if name != "resolution"]
    if not exchanges:
        return
    with tempfile.TemporaryDirectory(prefix="hs-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        certificates = make_certificates(
            folder, *(f"IP:{host}" for host in addresses(options.destinations))
        )
        servers = _start(stack, options, folder, certificates, exchanges)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificates.certificate, certificates.key)
        (port,) = free_ports(1)
        async with open_stand_ins(options.destinations, port, tls) as stand_ins:
            for server in servers:
                await server.register()
            measured = [server for server in servers if server.label in (HS, SYNAPSE, EARLIER)]
            bench = Bench(
                measured,
                stand_ins,
                figures,
                _report,
                rounds=options.rounds,
                transactions=options.transactions,
            )
            for scenario in exchanges:
                await _run(bench, scenario, options, servers[-1])


def _start(
    stack: ExitStack,
    options: argparse.Namespace,
    folder: Path,
    certificates: Certificates,
    scenarios: Sequence[str],
) -> list[MeasuredServer]:
    prefix = ["taskset", "-c", options.server_cpu]
    servers = [stack.enter_context(running_hs(HS, folder / "hs", certificates, prefix))]
    if options.earlier:
        other = ["env", f"PYTHONPATH={options.earlier}", *prefix]
        server = running_hs(EARLIER, folder / "earlier", certificates, other)
        servers.append(stack.enter_context(server))
    labels = [SYNAPSE] if options.synapse else []
    if options.synapse and "join-of-synapse" in scenarios:
        labels.append("another Synapse")
    servers.extend(
        stack.enter_context(
            running_synapse(options.synapse, label, folder / label, certificates, prefix)
        )
        for label in labels
    )
    return servers


async def _run(
    bench: Bench, scenario: str, options: argparse.Namespace, last: MeasuredServer
) -> None:
    match scenario:
        case "inbound":
            for members in options.members:
                await bench.inbound(members)
        case "outbound":
            await bench.outbound(options.destinations, options.events)
        case "join":
            for members in options.joined_members:
                await bench.join_of_stand_in(members)
        case "join-of-synapse" if last.label not in (HS, SYNAPSE, EARLIER):
            await bench.join_of_server(last, options.joined_members[0])


if __name__ == "__main__":
    main()
