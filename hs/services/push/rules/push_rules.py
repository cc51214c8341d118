"""Push rules of users, which one process changes and all processes read.

Spec: client-server API, Push Rules: API.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs
import orjson

from hs.core.canonical_json import shrink_to_fit
from hs.core.errors import InvalidParam
from hs.core.ids import RoomID, UserID
from hs.core.push import editing
from hs.core.push.defaults import STANDARD_FEATURES, PushFeatures, default_rules
from hs.core.push.rules import NO_USER_RULES, PushRule, RuleKind, UserRules, full_ruleset
from hs.core.push.wire import (
    decode_user_rules,
    encode_user_rules,
    render_rule,
    render_ruleset,
)
from hs.core.requester import Requester
from hs.core.streams import PUSH_RULES, PushRulesRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.storage.database import Database, Tx
from hs.storage.push import push_rules as storage

MAX_CACHED: Final = 20_000
MAX_RENDERED: Final = 2_000
MAX_BYTES: Final = 1024 * 1024
"""The limit of the encoded rules of one user."""

Edit = Callable[[UserRules], UserRules]


class RulesWriter(Protocol):
    """The process that changes push rules; it also checks kinds and bodies."""

    @rpc
    async def put(
        self,
        user_id: UserID,
        kind: str,
        rule_id: str,
        body: dict[str, Any],
        before: str | None,
        after: str | None,
    ) -> None:
        """Add or replace a rule (see `put_rule`). Raises: InvalidParam, MissingParam, Unknown."""
        ...

    @rpc
    async def delete(self, user_id: UserID, kind: str, rule_id: str) -> None:
        """Remove a rule. Raises: InvalidParam, NotFound."""
        ...

    @rpc
    async def set_enabled(
        self, user_id: UserID, kind: str, rule_id: str, body: dict[str, Any]
    ) -> None:
        """Enable or disable a rule. Raises: InvalidParam, MissingParam, NotFound."""
        ...

    @rpc
    async def set_actions(
        self, user_id: UserID, kind: str, rule_id: str, body: dict[str, Any]
    ) -> None:
        """Change the actions of a rule. Raises: InvalidParam, MissingParam, NotFound."""
        ...

    @rpc
    async def copy_room_rules(
        self, user_ids: list[UserID], old_room_id: RoomID, new_room_id: RoomID
    ) -> None:
        """Copy the rules that users set for an upgraded room to its replacement."""
        ...


@attrs.frozen(eq=False)
class RulesTable:
    """The implementation of `RulesWriter` in the process that writes the stream `push_rules`."""

    writer: TableWriter[PushRulesRow]
    features: PushFeatures = STANDARD_FEATURES

    @property
    def _defaults(self) -> tuple[PushRule, ...]:
        return default_rules(self.features)

    async def put(
        self,
        user_id: UserID,
        kind: str,
        rule_id: str,
        body: dict[str, Any],
        before: str | None,
        after: str | None,
    ) -> None:
        rule = editing.parse_rule(editing.parse_kind(kind), rule_id, body)
        await self._edit(
            user_id, lambda user: editing.put_rule(user, rule, before=before, after=after)
        )

    async def delete(self, user_id: UserID, kind: str, rule_id: str) -> None:
        parsed = editing.parse_kind(kind)
        await self._edit(user_id, lambda user: editing.delete_rule(user, parsed, rule_id))

    async def set_enabled(
        self, user_id: UserID, kind: str, rule_id: str, body: dict[str, Any]
    ) -> None:
        parsed, enabled = editing.parse_kind(kind), editing.parse_enabled(body)
        await self._edit(
            user_id,
            lambda user: editing.set_enabled(user, self._defaults, parsed, rule_id, enabled),
        )

    async def set_actions(
        self, user_id: UserID, kind: str, rule_id: str, body: dict[str, Any]
    ) -> None:
        parsed, actions = editing.parse_kind(kind), editing.parse_actions(body)
        await self._edit(
            user_id,
            lambda user: editing.set_actions(user, self._defaults, parsed, rule_id, actions),
        )

    async def copy_room_rules(
        self, user_ids: list[UserID], old_room_id: RoomID, new_room_id: RoomID
    ) -> None:
        for user_id in user_ids:
            await self._edit(
                user_id, lambda user: editing.copy_room_rules(user, old_room_id, new_room_id)
            )

    async def _edit(self, user_id: UserID, edit: Edit) -> None:
        await self.writer.write(_edit_rules, user_id, edit)


class PushRules:
    """The rules that users set, cached in each process."""

    def __init__(
        self, database: Database, feed: Feed, features: PushFeatures = STANDARD_FEATURES
    ) -> None:
        self._database = database
        self.defaults = default_rules(features)
        entries: LruCache[UserID, UserRules] = LruCache("push_rules", max_entries=MAX_CACHED)
        self._users = LoadingCache(entries, self._load)
        self._rendered: LruCache[UserID, bytes] = LruCache(
            "push_rule_documents", max_entries=MAX_RENDERED
        )
        feed.subscribe(PUSH_RULES, self._on_rows)

    async def of_user(self, user_id: UserID) -> UserRules:
        """Return the rules that a user set."""
        return await self._users.get(user_id)

    async def content(self, user_id: UserID) -> bytes:
        """Return the content of a user's m.push_rules event, which also is `GET /pushrules/`."""
        cached = self._rendered.get(user_id)
        if cached is not None:
            return cached
        user = await self._users.get(user_id)
        rules = render_ruleset(full_ruleset(user, self.defaults), user_id)
        rendered = shrink_to_fit(orjson.dumps(rules))
        self._rendered.put(user_id, rendered)
        return rendered

    async def _load(self, user_id: UserID) -> UserRules:
        stored = await self._database.read(storage.load_rules, user_id)
        return NO_USER_RULES if stored is None else decode_user_rules(stored)

    def _on_rows(self, batch: Batch[PushRulesRow]) -> None:
        for _, row in batch.rows:
            self._users.invalidate(UserID(row.user_id))
            self._rendered.pop(UserID(row.user_id))


@attrs.frozen(eq=False)
class PushRuleService:
    """The requests of clients about their push rules."""

    rules: PushRules
    writer: RulesWriter

    async def document(self, requester: Requester) -> bytes:
        """Return the JSON of all rules."""
        return await self.rules.content(requester.user_id)

    async def of_kind(self, requester: Requester, kind: str) -> list[dict[str, Any]]:
        """Return the rules of a kind. Raises: InvalidParam."""
        parsed = editing.parse_kind(kind)
        user = await self.rules.of_user(requester.user_id)
        return [
            render_rule(rule, requester.user_id)
            for rule in full_ruleset(user, self.rules.defaults)
            if rule.kind is parsed
        ]

    async def find(self, requester: Requester, kind: str, rule_id: str) -> dict[str, Any]:
        """Return a rule. Raises: InvalidParam, NotFound."""
        rule = await self._find(requester, editing.parse_kind(kind), rule_id)
        return render_rule(rule, requester.user_id)

    async def attribute(
        self, requester: Requester, kind: str, rule_id: str, name: str
    ) -> dict[str, Any]:
        """Return the `enabled` or the `actions` of a rule. Raises: InvalidParam, NotFound."""
        rule = await self._find(requester, editing.parse_kind(kind), rule_id)
        if name == "enabled":
            return {"enabled": rule.enabled}
        if name == "actions":
            return {"actions": list(rule.actions)}
        raise InvalidParam(f"Push rules have no attribute {name[:32]}")

    async def put(
        self,
        requester: Requester,
        kind: str,
        rule_id: str,
        body: dict[str, Any],
        before: str | None,
        after: str | None,
    ) -> None:
        """Add or replace a rule (see `put_rule`). Raises: InvalidParam, MissingParam, Unknown."""
        await self.writer.put(requester.user_id, kind, rule_id, body, before, after)

    async def delete(self, requester: Requester, kind: str, rule_id: str) -> None:
        """Remove a rule. Raises: InvalidParam, NotFound."""
        await self.writer.delete(requester.user_id, kind, rule_id)

    async def set_attribute(
        self, requester: Requester, kind: str, rule_id: str, name: str, body: Mapping[str, Any]
    ) -> None:
        """Change an attribute of a rule. Raises: InvalidParam, MissingParam, NotFound."""
        if name == "enabled":
            await self.writer.set_enabled(requester.user_id, kind, rule_id, dict(body))
        elif name == "actions":
            await self.writer.set_actions(requester.user_id, kind, rule_id, dict(body))
        else:
            raise InvalidParam(f"Push rules have no attribute {name[:32]}")

    async def _find(self, requester: Requester, kind: RuleKind, rule_id: str) -> PushRule:
        user = await self.rules.of_user(requester.user_id)
        return editing.find_rule(user, self.rules.defaults, kind, rule_id)


async def _edit_rules(
    tx: Tx, ids: StreamIds, user_id: UserID, edit: Edit
) -> tuple[None, list[tuple[int, PushRulesRow]]]:
    stored = await storage.load_rules(tx, user_id)
    old = NO_USER_RULES if stored is None else decode_user_rules(stored)
    new = edit(old)
    encoded = encode_user_rules(new)
    if encoded == (stored or encode_user_rules(NO_USER_RULES)):
        return None, []
    if len(encoded) > MAX_BYTES:
        raise InvalidParam(f"The push rules of a user must not exceed {MAX_BYTES} bytes")
    stream_id = await ids.next_id()
    await storage.set_rules(tx, user_id, encoded, stream_id)
    return None, [(stream_id, PushRulesRow(user_id, encoded))]
