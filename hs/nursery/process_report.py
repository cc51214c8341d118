"""The report of this process, for other processes and for `hs topology`."""

import os
import socket
from collections.abc import Mapping
from time import monotonic

import attrs
import trio

from hs import __version__
from hs.lib.health import NoticedCause
from hs.nursery.plan import describe_listener
from hs.nursery.process import Process
from hs.repl.cluster import Cluster
from hs.repl.process_reports import HeldSlots, ProcessReport, ReportedFault


@attrs.frozen(eq=False)
class LocalProcessReports:
    """The ProcessReports of this process."""

    _process: Process
    _cluster: Cluster
    _started: float = attrs.field(factory=monotonic, init=False)

    async def report(self) -> ProcessReport:
        """Return the report of this process."""
        base = self._process.base
        health = await self._process.health.check()
        return ProcessReport(
            instance=base.plan.instance,
            app=base.plan.app,
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            running_s=monotonic() - self._started,
            listeners=tuple(map(describe_listener, base.plan.listeners)),
            duties=base.plan.duties,
            leases=tuple(sorted(base.leases.held)),
            writes=self._writes(),
            follows=tuple(self._cluster.intake.followed()),
            calls=tuple(self._cluster.sender.connected),
            hears=tuple(self._cluster.announced.names),
            state=health.state.label,
            faults=tuple(map(_report_of, health.causes)),
            settings=dict(base.settings.digests),
            signing_key=base.signer.key.verify_key.base64,
            now_ms=base.clock.now_ms(),
            slots=self._slots(),
        )

    async def ping(self) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()

    def _slots(self) -> Mapping[str, HeldSlots]:
        table = self._process.base.ownership.slots
        if table is None:
            return {}
        held = {stream: table.held(stream) for stream in table.configured}
        return {
            stream: HeldSlots(
                count=len(slots), epoch=max(table.epochs(stream)[slot] for slot in slots)
            )
            for stream, slots in held.items()
            if slots
        }

    def _writes(self) -> Mapping[str, int]:
        base = self._process.base
        own = {source.stream.name: source.committed for source in base.transport.sources}
        return dict(sorted(own.items()))


def _report_of(noticed: NoticedCause) -> ReportedFault:
    cause = noticed.cause
    return ReportedFault(
        code=cause.code,
        subject=cause.subject,
        message=cause.message,
        state=cause.state.label,
        since_ms=noticed.since_ms,
    )
