"""The composition root: builds every service of a process; the plan decides what is started."""

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.apis.web.route import collect
from hs.lib.aio import Bridge
from hs.lib.clock import Clock
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty
from hs.nursery.foundation import lay_foundation
from hs.nursery.plan import Plan
from hs.nursery.process import Process, Runner
from hs.nursery.wiring.accounts import wire_accounts
from hs.nursery.wiring.endpoints import account_apis, action_apis
from hs.nursery.wiring.rooms import wire_room_actions, wire_rooms
from hs.settings.settings import Settings
from hs.storage.database import Database


def compose(
    settings: Settings, plan: Plan, clock: Clock, bridge: Bridge, database: Database
) -> Process:
    """Build a process. Nothing starts, waits or connects here. Raises: SettingsError."""
    ground = lay_foundation(settings, plan, clock, bridge, database)
    drain, admission, metrics = Drain(), Admission(), Metrics()
    metrics.watch_process()
    accounts = wire_accounts(ground)
    rooms = wire_rooms(ground)
    actions = wire_room_actions(ground, rooms, accounts)
    endpoints = collect(*account_apis(accounts), *action_apis(actions))
    runners: list[tuple[str, Runner]] = []
    if rooms.committer is not None:
        runners.append(("committer", rooms.committer.run))
    duties: list[Duty] = [*accounts.duties]
    return Process(
        ground=ground,
        runners=runners,
        duties=duties,
        endpoints=endpoints,
        authenticator=accounts.authenticator,
        rates=accounts.rates,
        admission=admission,
        drain=drain,
        metrics=metrics,
    )
