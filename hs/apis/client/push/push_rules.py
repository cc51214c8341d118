"""Push rules of the requester."""

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
class GetPushRulesRequest:
    """GET /pushrules/ and /pushrules/global/."""

    requester: Requester


@attrs.frozen
class GetPushRulesAccountDataRequest:
    """GET /user/{userId}/account_data/m.push_rules."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class GetPushRulesOfKindRequest:
    """GET /pushrules/global/{kind}/."""

    requester: Requester
    kind: str = path()


@attrs.frozen
class PushRuleRequest:
    """GET and DELETE /pushrules/global/{kind}/{ruleId}."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()


@attrs.frozen
class SetPushRuleRequest:
    """PUT /pushrules/global/{kind}/{ruleId}."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()
    before: str | None = query(default=None)
    after: str | None = query(default=None)
    rule: JsonObject = whole_body()


@attrs.frozen
class GetPushRuleAttributeRequest:
    """GET /pushrules/global/{kind}/{ruleId}/enabled and actions."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()
    attribute: str = path()


@attrs.frozen
class SetPushRuleAttributeRequest:
    """PUT /pushrules/global/{kind}/{ruleId}/enabled and actions."""

    requester: Requester
    kind: str = path()
    rule_id: str = path()
    attribute: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class InvalidPushRulePathRequest:
    """GET and PUT of a scope that is not `global`, or without kind or rule ID."""

    requester: Requester
    scope: str = path(default="")
    kind: str = path(default="")
    rule_id: str = path(default="")


@attrs.frozen
class PushRulesApi:
    """Endpoints of push rules; they can be read as account data too, but are not stored as such."""

    rules: PushRuleService

    @route(
        "GET",
        "/_matrix/client/v3/user/{user_id}/account_data/m.push_rules",
        auth=USER_OR_GUEST,
        fresh=always,
    )
    async def get_push_rules_account_data(self, request: GetPushRulesAccountDataRequest) -> bytes:
        """Spec: client-server API, Client Config, Server Behaviour."""
        check_own(request.requester, request.user_id)
        return await self.rules.document(request.requester)

    @route("GET", f"{_RULES}/", fresh=always)
    async def get_push_rules(self, request: GetPushRulesRequest) -> bytes:
        """Spec: client-server API, Push Rules: API."""
        return await self.rules.document(request.requester)

    @route("GET", f"{_RULES}/global/", fresh=always)
    async def get_global_push_rules(self, request: GetPushRulesRequest) -> bytes:
        """Spec: client-server API, Push Rules: API."""
        document = await self.rules.document(request.requester)
        # The document is {"global": …}; the response is the value.
        return document[len(b'{"global":') : -1]

    @route("GET", f"{_RULES}/global/{{kind}}/", fresh=always)
    async def get_push_rules_of_kind(
        self, request: GetPushRulesOfKindRequest
    ) -> list[dict[str, Any]]:
        """Return the rules of a kind; not in the specification."""
        return await self.rules.of_kind(request.requester, request.kind)

    @route("GET", f"{_RULES}/global/{{kind}}/{{rule_id}}", auth=USER, fresh=always)
    async def get_push_rule(self, request: PushRuleRequest) -> dict[str, Any]:
        """Spec: client-server API, Push Rules: API."""
        return await self.rules.find(request.requester, request.kind, request.rule_id)

    @route("PUT", f"{_RULES}/global/{{kind}}/{{rule_id}}", auth=USER)
    async def set_push_rule(self, request: SetPushRuleRequest) -> Empty:
        """Spec: client-server API, Push Rules: API."""
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
    async def delete_push_rule(self, request: PushRuleRequest) -> Empty:
        """Spec: client-server API, Push Rules: API."""
        await self.rules.delete(request.requester, request.kind, request.rule_id)
        return Empty()

    @route("GET", f"{_RULES}/global/{{kind}}/{{rule_id}}/{{attribute}}", auth=USER, fresh=always)
    async def get_push_rule_attribute(self, request: GetPushRuleAttributeRequest) -> dict[str, Any]:
        """Spec: client-server API, Push Rules: API."""
        return await self.rules.attribute(
            request.requester, request.kind, request.rule_id, request.attribute
        )

    @route("PUT", f"{_RULES}/global/{{kind}}/{{rule_id}}/{{attribute}}", auth=USER)
    async def set_push_rule_attribute(self, request: SetPushRuleAttributeRequest) -> Empty:
        """Spec: client-server API, Push Rules: API."""
        await self.rules.set_attribute(
            request.requester, request.kind, request.rule_id, request.attribute, request.content
        )
        return Empty()

    @route("GET", f"{_RULES}/{{scope}}", extra_paths=[f"{_RULES}/{{scope}}/{{kind}}"])
    async def get_invalid_path(self, request: InvalidPushRulePathRequest) -> Empty:
        """Reject scopes of earlier versions of the specification."""
        _reject_path()

    @route(
        "PUT",
        f"{_RULES}/{{scope}}",
        extra_paths=[f"{_RULES}/{{scope}}/{{kind}}", f"{_RULES}/{{scope}}/{{kind}}/{{rule_id}}"],
    )
    async def put_invalid_path(self, request: InvalidPushRulePathRequest) -> Empty:
        """Reject scopes of earlier versions of the specification."""
        _reject_path()


def _reject_path() -> NoReturn:
    raise InvalidParam("The path must have the scope global, a kind and a rule ID")
