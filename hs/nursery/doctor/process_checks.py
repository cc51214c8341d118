"""Checks of the running processes: each from outside, and what they say of the others."""

from collections.abc import Callable, Iterator
from typing import Final

from hs.core.signing.keys import SigningKey
from hs.lib.clock import SystemClock
from hs.nursery.health.database_probe import CLOCK_MS
from hs.nursery.running_processes import FoundProcesses, ask_processes, problems_of
from hs.repl.process_reports import ProcessReport
from hs.repl.signing_key import signing_key_of
from hs.services.federation_client.peer_check import CheckStep
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

Report = Callable[[CheckStep], None]
_SUBJECT: Final = "processes"


async def check_processes(settings: Settings, report: Report) -> None:
    """Report the state of every process that takes calls, and in what they disagree."""
    if not settings.workers.instances:
        report(CheckStep(_SUBJECT, "instance_map is missing, so they cannot be asked", None))
        return
    clock = SystemClock()
    before_ms = clock.now_ms()
    found = await ask_processes(settings, sorted({MAIN, *settings.workers.instances}))
    for step in process_steps(found, signing_key_of(settings), before_ms, clock.now_ms()):
        report(step)


def process_steps(
    found: FoundProcesses, key: SigningKey, before_ms: int, after_ms: int
) -> Iterator[CheckStep]:
    """Yield the steps for processes that were asked between two moments."""
    reports = {name: report for name, report in found.items() if isinstance(report, ProcessReport)}
    for name, report in reports.items():
        text = f"{name} accepts the secret, is {report.state}, version {report.version}"
        yield CheckStep(_SUBJECT, text, report.state == "ready")
    is_good = True
    for problem in problems_of(found):
        is_good = False
        yield CheckStep(_SUBJECT, problem, False)
    for name, report in reports.items():
        if report.signing_key != key.verify_key.base64:
            is_good = False
            text = f"{name} has another signing key ({report.signing_key}) than these files"
            yield CheckStep("signing key", text, False)
        difference_ms = max(before_ms - report.now_ms, report.now_ms - after_ms)
        if difference_ms > CLOCK_MS:
            is_good = False
            text = f"that of {name} and of this host differ by {difference_ms / 1000:.0f} s"
            yield CheckStep("clock", text, False)
    if is_good:
        yield CheckStep(_SUBJECT, "versions, settings, signing keys and clocks agree")
