"""A check of Redis: a message is published, and the processes that hear it answer."""

from collections.abc import Callable

from hs.repl.bus_roll_call import hear_processes
from hs.repl.redis_link import RedisDown
from hs.services.federation_client.peer_check import CheckStep
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings
from hs.storage.database import Database

Report = Callable[[CheckStep], None]


async def check_bus(settings: Settings, database: Database, report: Report) -> None:
    """Report whether Redis carries messages, and who hears them."""
    if not settings.redis.enabled:
        report(CheckStep("Redis", "not used: redis.enabled is false", None))
        return
    expected = {MAIN, *settings.workers.instances}
    try:
        heard = await hear_processes(settings, database, expected)
    except RedisDown as error:
        report(CheckStep("Redis", f"cannot be used: {error}", False))
        return
    if heard is None:
        text = "a message does not come back: allow the user PUBLISH and SUBSCRIBE"
        report(CheckStep("Redis", text, False))
        return
    report(CheckStep("Redis", "a message that is published comes back"))
    if silent := sorted(expected - heard):
        text = f"{', '.join(silent)}: not heard, so it does not run or uses another Redis"
        report(CheckStep("Redis", text, False))
    if heard:
        report(CheckStep("Redis", f"heard {', '.join(sorted(heard))}"))
