"""Asks the running processes of a server about themselves, as an outsider that has the secret."""

import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import trio

from hs.lib.default_tls import default_tls
from hs.nursery.process_base import topology_of
from hs.repl.calls.client import RpcClients
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.calls.sender import LinkSender
from hs.repl.feed import Feed
from hs.repl.process_reports import ProcessReport, ProcessReports
from hs.repl.signing_key import replication_secret_of
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
        async with _clients(settings) as clients:
            found = await _report_of(clients, name)
    return isinstance(found, ProcessReport) and found.instance == name


async def ask_processes(settings: Settings, names: Iterable[str]) -> FoundProcesses:
    """Ask processes for their reports, all at once."""
    found: dict[str, ProcessReport | str] = {}

    async def ask(name: str) -> None:
        found[name] = await _report_of(clients, name)

    async with _clients(settings) as clients, trio.open_nursery() as asking:
        for name in names:
            asking.start_soon(ask, name)
    return found


@asynccontextmanager
async def _clients(settings: Settings) -> AsyncIterator[RpcClients]:
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
