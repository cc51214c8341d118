"""Push rules, their evaluation for each event, unread counts, and the list of notifications."""

from functools import partial

import attrs

from hs.apis.client.push.notifications import NotificationsApi
from hs.apis.client.push.push_rules import PushRulesApi
from hs.core.push.defaults import PushFeatures
from hs.core.streams import PUSH_RULES, PUSHES, UNREAD
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.process_metrics import watch_push_evaluation
from hs.nursery.wiring.ephemeral import EphemeralServices
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.push.evaluation.custom_rules import UsersWithCustomRules
from hs.services.push.evaluation.evaluation_duty import EvaluationDuty, EvaluationStore
from hs.services.push.evaluation.event_evaluation import Evaluator
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.push.evaluation.users_with_pushers import UsersWithPushers
from hs.services.push.rules.push_rules import PushRules, PushRuleService, RulesTable, RulesWriter
from hs.services.push.unread.notification_list import NotificationList
from hs.services.push.unread.unread_counts import UnreadCounts


@attrs.frozen(eq=False, kw_only=True)
class PushServices:
    """Push rules and unread counts; `evaluation` runs in the process that writes `unread`."""

    rules: PushRules
    rule_service: PushRuleService
    counts: UnreadCounts
    notifications: NotificationList
    evaluation: EvaluationDuty | None
    part: Part


def wire_rules_writer(base: ProcessBase) -> RulesWriter:
    """Build the writer of push rules, or a proxy of it."""
    return base.owned(
        RulesWriter, PUSH_RULES, lambda: RulesTable(base.table(PUSH_RULES), _features(base))
    )


def _features(base: ProcessBase) -> PushFeatures:
    experiments = base.settings.proposals.experimental_features
    return PushFeatures(
        threads=experiments.thread_subscriptions, encrypted_event=experiments.encrypted_pushes
    )


def wire_push(
    base: ProcessBase,
    rooms: Rooms,
    reading: RoomReading,
    ephemeral: EphemeralServices,
    writer: RulesWriter,
) -> PushServices:
    """Build push rules and unread counts."""
    database, feed = base.database, base.feed
    features = _features(base)
    duties: list[EvaluationDuty] = []

    def evaluation() -> EvaluationDuty:
        duty = _evaluation(base, rooms, features)
        duties.append(duty)
        return duty

    store = base.owned(EvaluationStore, UNREAD, evaluation)
    rules = PushRules(database, feed, features)
    rule_service = PushRuleService(rules, writer)
    counts = UnreadCounts(database, feed, ephemeral.receipts, store)
    notifications = NotificationList(
        database=database,
        memberships=rooms.memberships,
        events=rooms.events,
        visibility=reading.visibility,
        rendering=reading.rendering,
        counts=counts,
    )
    return PushServices(
        rules=rules,
        rule_service=rule_service,
        counts=counts,
        notifications=notifications,
        evaluation=duties[0] if duties else None,
        part=Part(
            endpoints=[
                PushRulesApi(rule_service),
                NotificationsApi(notifications),
            ],
            runners=[("push evaluation", duty.run) for duty in duties],
            metrics=[partial(watch_push_evaluation, duty=duty) for duty in duties],
        ),
    )


def _evaluation(base: ProcessBase, rooms: Rooms, features: PushFeatures) -> EvaluationDuty:
    """Build the evaluation, which runs in the process that writes the stream `unread`."""
    database, feed = base.database, base.feed
    custom, ignoring = UsersWithCustomRules(database, feed), IgnoringUsers(database, feed)
    pushed = UsersWithPushers(database, feed)
    threads = ThreadSubscribers(database, feed) if features.threads else None
    evaluator = Evaluator(
        events=rooms.events,
        states=rooms.states,
        members=rooms.memberships,
        custom=custom,
        ignoring=ignoring,
        pushed=pushed,
        threads=threads,
        features=features,
    )
    return EvaluationDuty(
        database=database,
        feed=feed,
        evaluator=evaluator,
        custom=custom,
        ignoring=ignoring,
        events=rooms.events,
        members=rooms.memberships,
        writer=base.memory(UNREAD),
        queue=PushQueue(database, base.memory(PUSHES), base.clock.now_ms, pushed),
        is_on=base.settings.push.enabled,
    )
