"""Push rules and unread counts: rules of users, what they make of each event, what is unread."""

import attrs

from hs.apis.client.push.push_rules import PushRulesApi
from hs.core.push.defaults import PushFeatures
from hs.nursery.process import Runner
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.ephemeral import Ephemeral
from hs.nursery.wiring.rooms import Rooms
from hs.repl.streams import EVENTS, PUSH_RULES, PUSHES, UNREAD
from hs.services.push.evaluation.custom_rules import CustomRuleUsers
from hs.services.push.evaluation.evaluation_duty import EvaluationDuty, EvaluationStore
from hs.services.push.evaluation.event_evaluation import Evaluator
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.push.evaluation.thread_subscribers import SubscribersOfThreads
from hs.services.push.evaluation.users_with_pushers import PusherUsers
from hs.services.push.rules.push_rules import PushRules, PushRuleService, RulesTable, RulesWriter
from hs.services.push.unread.unread_counts import UnreadCounts


@attrs.frozen(eq=False, kw_only=True)
class Push:
    """What others need of push; `runners` work in the process that evaluates."""

    rules: PushRules
    rule_service: PushRuleService
    counts: UnreadCounts
    evaluation: EvaluationDuty | None  # in the process that evaluates
    runners: list[tuple[str, Runner]]


def wire_rules_writer(ground: Foundation) -> RulesWriter:
    """Build what changes push rules, or asks the process that does."""
    return ground.owned(
        RulesWriter, PUSH_RULES, lambda: RulesTable(ground.table(PUSH_RULES), _features(ground))
    )


def _features(ground: Foundation) -> PushFeatures:
    experiments = ground.settings.proposals.experimental_features
    return PushFeatures(
        threads=experiments.thread_subscriptions, encrypted_event=experiments.encrypted_pushes
    )


def wire_push(ground: Foundation, rooms: Rooms, ephemeral: Ephemeral, writer: RulesWriter) -> Push:
    """Build push rules and unread counts."""
    database, feed = ground.database, ground.feed
    features = _features(ground)
    runners: list[tuple[str, Runner]] = []
    evaluating: list[EvaluationDuty] = []

    def evaluation() -> EvaluationDuty:
        custom, ignoring = CustomRuleUsers(database, feed), IgnoringUsers(database, feed)
        pushed = PusherUsers(database, feed)
        threads = SubscribersOfThreads(database, feed) if features.threads else None
        evaluator = Evaluator(
            rooms.events,
            rooms.states,
            rooms.memberships,
            custom,
            ignoring,
            pushed,
            threads,
            features,
        )
        duty = EvaluationDuty(
            database,
            feed,
            evaluator,
            custom,
            ignoring,
            rooms.events,
            rooms.memberships,
            ground.memory(UNREAD),
            PushQueue(database, ground.memory(PUSHES), ground.clock.now_ms, pushed),
            is_on=ground.settings.push.enabled,
        )
        runners.append(("push evaluation", duty.run))
        evaluating.append(duty)
        return duty

    store = ground.owned(EvaluationStore, UNREAD, evaluation)
    rules = PushRules(database, feed, features)
    return Push(
        rules=rules,
        rule_service=PushRuleService(rules, writer),
        counts=UnreadCounts(
            database,
            feed,
            ephemeral.receipts,
            store,
            lambda room_id: ground.ownership.owner(EVENTS, room_id),
        ),
        evaluation=evaluating[0] if evaluating else None,
        runners=runners,
    )


def push_apis(push: Push) -> list[object]:
    """Give the endpoints."""
    return [PushRulesApi(push.rule_service)]
