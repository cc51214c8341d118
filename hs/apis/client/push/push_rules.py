"""Push rules."""

from typing import Any, NoReturn

import attrs

from hs.apis.client.accounts.account_data import check_own
from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import path, query, whole_body
from hs.apis.web.route import always, route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.push.rules.push_rules import PushRuleService

_RULES = "/_matrix/client/v3/pushrules"


@attrs.frozen
class GetRules:
    """Ask for all rules."""

    requester: Requester


@attrs.frozen
class GetEvent:
    """Ask for all rules as /sync tells them."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class GetKind:
    """Ask for the rules of a kind."""

    requester: Requester
    kind: str = path()


@attrs.frozen
class OneRule:
    """Name a rule, to read or to delete it."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()


@attrs.frozen
class PutRule:
    """Set a rule."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()
    before: str | None = query(default=None)
    after: str | None = query(default=None)
    rule: JsonObject = whole_body()


@attrs.frozen
class GetAttribute:
    """Ask for one property of a rule."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()
    attribute: str = path()


@attrs.frozen
class PutAttribute:
    """Set one property of a rule."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()
    attribute: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class OtherScope:
    """Ask for rules of a scope that is not `global`, or leave out what names a rule."""

    requester: Requester
    scope: str = path(default="")
    kind: str = path(default="")
    rule_id: str = path(default="")


@attrs.frozen
class PushRulesApi:
    """The paths under /pushrules, and what reads like account data and is none."""

    rules: PushRuleService

    @route(
        "GET",
        "/_matrix/client/v3/user/{user_id}/account_data/m.push_rules",
        auth=USER_OR_GUEST,
        fresh=always,
    )
    async def get_event(self, request: GetEvent) -> bytes:
        """Spec: client-server API, Client Config, Server Behaviour."""
        check_own(request.requester, request.user_id)
        return await self.rules.document(request.requester)

    @route("GET", f"{_RULES}/", fresh=always)
    async def get_all(self, request: GetRules) -> bytes:
        """Spec: client-server API, GET pushrules."""
        return await self.rules.document(request.requester)

    @route("GET", f"{_RULES}/global/", fresh=always)
    async def get_global(self, request: GetRules) -> bytes:
        """Spec: client-server API, GET pushrules/global."""
        document = await self.rules.document(request.requester)
        # The document is {"global": …}: what stands between is the answer.
        return document[len(b'{"global":') : -1]

    @route("GET", f"{_RULES}/global/{{kind}}/", fresh=always)
    async def get_kind(self, request: GetKind) -> list[dict[str, Any]]:
        """Give the rules of a kind."""
        return await self.rules.of_kind(request.requester, request.kind)

    @route("GET", f"{_RULES}/global/{{kind}}/{{rule_id}}", auth=USER, fresh=always)
    async def get_one(self, request: OneRule) -> dict[str, Any]:
        """Spec: client-server API, GET pushrules/global/{kind}/{ruleId}."""
        return await self.rules.one(request.requester, request.kind, request.rule_id)

    @route("PUT", f"{_RULES}/global/{{kind}}/{{rule_id}}", auth=USER)
    async def put_one(self, request: PutRule) -> Empty:
        """Spec: client-server API, PUT pushrules/global/{kind}/{ruleId}."""
        await self.rules.put(
            request.requester,
            request.kind,
            request.rule_id,
            request.rule,
            request.before,
            request.after,
        )
        return Empty()

    @route("DELETE", f"{_RULES}/global/{{kind}}/{{rule_id}}", auth=USER)
    async def delete_one(self, request: OneRule) -> Empty:
        """Spec: client-server API, DELETE pushrules/global/{kind}/{ruleId}."""
        await self.rules.delete(request.requester, request.kind, request.rule_id)
        return Empty()

    @route("GET", f"{_RULES}/global/{{kind}}/{{rule_id}}/{{attribute}}", auth=USER, fresh=always)
    async def get_attribute(self, request: GetAttribute) -> dict[str, Any]:
        """Spec: client-server API, GET …/enabled and …/actions."""
        return await self.rules.attribute(
            request.requester, request.kind, request.rule_id, request.attribute
        )

    @route("PUT", f"{_RULES}/global/{{kind}}/{{rule_id}}/{{attribute}}", auth=USER)
    async def put_attribute(self, request: PutAttribute) -> Empty:
        """Spec: client-server API, PUT …/enabled and …/actions."""
        await self.rules.set_attribute(
            request.requester, request.kind, request.rule_id, request.attribute, request.content
        )
        return Empty()

    @route("GET", f"{_RULES}/{{scope}}", also=[f"{_RULES}/{{scope}}/{{kind}}"])
    async def get_other_scope(self, request: OtherScope) -> Empty:
        """Refuse scopes of earlier versions of the specification."""
        _refuse()

    @route(
        "PUT",
        f"{_RULES}/{{scope}}",
        also=[f"{_RULES}/{{scope}}/{{kind}}", f"{_RULES}/{{scope}}/{{kind}}/{{rule_id}}"],
    )
    async def put_other_scope(self, request: OtherScope) -> Empty:
        """Refuse scopes of earlier versions of the specification."""
        _refuse()


def _refuse() -> NoReturn:
    raise InvalidParam("Push rules are under global, with a kind and a rule ID")
