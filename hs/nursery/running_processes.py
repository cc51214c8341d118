"""Asks the running processes of a server about themselves, as an outsider that has the secret."""

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import trio

from hs.lib.default_tls import default_tls
from hs.nursery.health.process_probes import LAG_POSITIONS
from hs.nursery.process_base import topology_of
from hs.repl.calls.client import RpcClients
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.calls.sender import LinkSender
from hs.repl.feed import Feed
from hs.repl.process_reports import ProcessReport, ProcessReports
from hs.repl.signing_key import replication_secret_of
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

ANSWER_S = 2.0

FoundProcesses: TypeAlias = Mapping[str, ProcessReport | str]
"""The report of each process, or why there is none."""


async def answers(settings: Settings, name: str) -> bool:
    """Return whether a process runs under a name at its address in `instance_map`."""
    if name not in settings.workers.instances:
        return False
    found: ProcessReport | str = "no answer in time"
    with trio.move_on_after(ANSWER_S):
        async with open_clients(settings) as clients:
            found = await _report_of(clients, name)
    return isinstance(found, ProcessReport) and found.instance == name


async def ask_processes(settings: Settings, names: Iterable[str]) -> FoundProcesses:
    """Ask processes for their reports, all at once."""
    found: dict[str, ProcessReport | str] = {}

    async def ask(name: str) -> None:
        found[name] = await _report_of(clients, name)

    async with open_clients(settings) as clients, trio.open_nursery() as asking:
        for name in names:
            asking.start_soon(ask, name)
    return found


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[RpcClients]:
    """Call the processes of a server from outside it, within the block."""
    locations = topology_of(settings.workers).locations
    caller = f"outsider/{secrets.token_hex(12)}"
    sender = LinkSender(locations, replication_secret_of(settings), caller, default_tls())
    async with trio.open_nursery() as connections:
        await connections.start(sender.run)
        yield RpcClients(sender, Feed())
        connections.cancel_scope.cancel()


async def _report_of(clients: RpcClients, name: str) -> ProcessReport | str:
    try:
        return await clients.proxy(ProcessReports, name).report()
    except RpcUnavailable as error:
        return error.cause
    except RpcFailed as error:
        return str(error)


def problems_of(found: FoundProcesses) -> Iterator[str]:
    """Yield what is wrong with the processes, each and together."""
    reports = {name: report for name, report in found.items() if isinstance(report, ProcessReport)}
    for name, report in found.items():
        if isinstance(report, str):
            yield f"{name} is not reached: {report}"
            continue
        yield from (f"{name} is {fault.state}: {fault.message}" for fault in report.faults)
        if report.instance != name:
            yield f"instance_map says that {name} listens where {report.instance} does"
        for followed in report.follows:
            if followed.lag > LAG_POSITIONS:
                yield (
                    f"{name} is {followed.lag} positions behind {followed.writer} in stream "
                    f"{followed.stream}"
                )
    versions = {report.version for report in reports.values()}
    if len(versions) > 1:
        yield f"the processes run different versions: {', '.join(sorted(versions))}"
    reference = reports.get(MAIN)
    if reference is None:
        return
    for name, report in reports.items():
        keys = [
            key
            for key in sorted({*reference.settings, *report.settings})
            if reference.settings.get(key) != report.settings.get(key)
        ]
        if keys:
            yield f"{name} has other settings than {MAIN}: {', '.join(keys)}"
