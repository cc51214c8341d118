"""The results of single checks, and the order of all of them."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from hs.lib.aio import open_bridge
from hs.nursery.boot import open_settings_database
from hs.nursery.doctor.bus_check import check_bus
from hs.nursery.doctor.database_checks import check_database_content
from hs.nursery.doctor.process_checks import check_processes
from hs.nursery.doctor.proxy_checks import check_proxy
from hs.nursery.exit_causes import cause_of
from hs.services.federation_client.peer_check import CheckStep
from hs.settings.settings import Settings
from hs.storage.database import DatabaseError

CHECK_S: Final = 30.0
"""The time limit of each group of checks; single queries have shorter ones."""

Report = Callable[[CheckStep], None]


async def examine(settings: Settings, report: Report) -> None:
    """Check a server, and report each step as soon as it is known."""
    async with open_bridge() as bridge:
        try:
            async with open_settings_database(settings, bridge) as database:
                await _group("database", check_database_content(settings, database, report), report)
                await _group("Redis", check_bus(settings, database, report), report)
        except (DatabaseError, OSError, ValueError) as error:
            report(CheckStep("database", cause_of(error)[0], False))
        await _group("processes", check_processes(settings, report), report)
        await _group("reverse proxy", check_proxy(settings, bridge, report), report)


async def _group(subject: str, check: Awaitable[None], report: Report) -> None:
    with trio.move_on_after(CHECK_S) as limit:
        await check
    if limit.cancelled_caught:
        report(CheckStep(subject, f"not finished within {CHECK_S:.0f} s", False))
