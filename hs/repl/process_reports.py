"""What a process tells others, and administrators, about itself."""

from collections.abc import Mapping
from typing import Protocol

import attrs

from hs.repl.rpc import rpc


@attrs.frozen(kw_only=True)
class FollowedWriter:
    """How far a process follows a writer in another process; `lag` is in positions."""

    stream: str
    writer: str
    position: int
    lag: int
    repairs: int


@attrs.frozen(kw_only=True)
class ReportedFault:
    """A cause of a process's state, and since when the process knows of it."""

    code: str
    subject: str
    message: str
    state: str
    since_ms: int


@attrs.frozen(kw_only=True)
class HeldSlots:
    """How many slots of a stream a process holds, and the highest of their epochs."""

    count: int
    epoch: int


@attrs.frozen(kw_only=True)
class ProcessReport:
    """A process as it sees itself.

    `duties` are those of its plan, `leases` what it does at the moment alone. `writes` are streams
    with the position of the last commit. `calls` are the processes that it is connected to,
    `hears` those that announce themselves on Redis. `state` is `ready`, `degraded` or
    `unready`, and `faults` are its causes. `settings` are digests by key,
    `signing_key` is the public one. `slots` are by stream, of those whose keys have slots.
    """

    instance: str
    app: str
    version: str
    host: str
    pid: int
    running_s: float
    listeners: tuple[str, ...]
    duties: tuple[str, ...]
    leases: tuple[str, ...]
    writes: Mapping[str, int]
    follows: tuple[FollowedWriter, ...]
    calls: tuple[str, ...]
    hears: tuple[str, ...]
    state: str
    faults: tuple[ReportedFault, ...]
    settings: Mapping[str, str]
    signing_key: str
    now_ms: int
    slots: Mapping[str, HeldSlots] = attrs.Factory(dict)


class ProcessReports(Protocol):
    """Reports of a process, which every process of a cluster offers to the others."""

    @rpc(timeout_s=5.0, catch_up=False)
    async def report(self) -> ProcessReport:
        """Return the report of the process that is called."""

    @rpc(timeout_s=1.0, catch_up=False)
    async def ping(self) -> None:
        """Return, as a sign of life."""
