"""The e-mail addresses and phone numbers of an account."""

from typing import Any

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, MissingParam, ThreepidAuthFailed
from hs.core.requester import Requester
from hs.core.threepids import canonical_address, check_client_secret
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.limits.account_restrictions import check_may_remove_threepids
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.services.accounts.threepids.threepid_validation import ThreepidValidation
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_emails import ValidationPurpose

PATH = "/_matrix/client/v3/account/3pid"
UNSTABLE = "/_matrix/client/unstable/account/3pid"


@attrs.frozen
class ListThreepidsRequest:
    """GET /account/3pid."""

    requester: Requester


@attrs.frozen
class DeprecatedAddThreepidRequest:
    """POST /account/3pid."""

    requester: Requester
    three_pid_creds: JsonObject | None = body(default=None)
    threepid_creds: JsonObject | None = body(default=None, name="threePidCreds")


@attrs.frozen
class AddThreepidRequest:
    """POST /account/3pid/add."""

    requester: Requester
    client_secret: str = body()
    sid: str = body()
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class BindThreepidRequest:
    """POST /account/3pid/bind."""

    requester: Requester
    client_secret: str = body()
    id_server: str = body()
    id_access_token: str = body()
    sid: str = body()


@attrs.frozen
class RemoveThreepidRequest:
    """POST /account/3pid/unbind and /account/3pid/delete."""

    requester: Requester
    medium: str = body()
    address: str = body()
    id_server: str | None = body(default=None)


@attrs.frozen
class ThreepidsApi:
    """Endpoints of third-party identifiers."""

    threepids: Threepids
    validations: ThreepidValidation
    published: IdentityServers
    lifecycle: AccountLifecycle
    interactive: InteractiveAuth

    @route("GET", PATH)
    async def list_threepids(self, request: ListThreepidsRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        threepids = await self.threepids.of_user(request.requester.user_id)
        return {
            "threepids": [
                {
                    "medium": threepid.medium,
                    "address": threepid.address,
                    "validated_at": threepid.validated_ms,
                    "added_at": threepid.added_ms,
                }
                for threepid in threepids
            ]
        }

    @route("POST", PATH)
    async def deprecated_add_threepid(self, request: DeprecatedAddThreepidRequest) -> Empty:
        """Spec: client-server API, Adding account administrative contact information."""
        self._check_changes_allowed()
        credentials = request.three_pid_creds or request.threepid_creds
        if credentials is None:
            raise MissingParam("Missing three_pid_creds")
        sid, client_secret = credentials.get("sid"), credentials.get("client_secret")
        if not isinstance(sid, str) or not isinstance(client_secret, str):
            raise MissingParam("three_pid_creds must have sid and client_secret")
        await self._add(request.requester, sid, client_secret)
        return Empty()

    @route("POST", PATH + "/add", extra_paths=[UNSTABLE + "/add"])
    async def add_threepid(self, request: AddThreepidRequest) -> Empty:
        """Spec: client-server API, Adding account administrative contact information."""
        self._check_changes_allowed()
        check_client_secret(request.client_secret)
        proof = await self.interactive.prove(
            "add_threepid", request.auth, self.lifecycle.flows(), request.requester
        )
        await self._add(request.requester, request.sid, request.client_secret)
        await self.interactive.finish(proof)
        return Empty()

    @route("POST", PATH + "/bind", extra_paths=[UNSTABLE + "/bind"])
    async def bind_threepid(self, request: BindThreepidRequest) -> Empty:
        """Spec: client-server API, Adding account administrative contact information."""
        check_client_secret(request.client_secret)
        await self.published.bind(
            request.requester.user_id,
            request.id_server,
            request.id_access_token,
            request.sid,
            request.client_secret,
        )
        return Empty()

    @route("POST", PATH + "/unbind", extra_paths=[UNSTABLE + "/unbind"])
    async def unbind_threepid(self, request: RemoveThreepidRequest) -> dict[str, str]:
        """Spec: client-server API, Adding account administrative contact information."""
        address = canonical_address(request.medium, request.address)
        return await self._unbind(request, address)

    @route("POST", PATH + "/delete", extra_paths=[UNSTABLE + "/delete"])
    async def delete_threepid(self, request: RemoveThreepidRequest) -> dict[str, str]:
        """Spec: client-server API, Adding account administrative contact information."""
        self._check_changes_allowed()
        check_may_remove_threepids(request.requester)
        address = canonical_address(request.medium, request.address)
        response = await self._unbind(request, address)
        await self.threepids.remove(request.requester.user_id, request.medium, address)
        return response

    def _check_changes_allowed(self) -> None:
        if not self.threepids.may_change:
            raise Forbidden("Changing third-party identifiers is disabled on this server")

    async def _add(self, requester: Requester, sid: str, client_secret: str) -> None:
        validated = None
        if "\0" not in sid:
            validated = await self.validations.validated(ValidationPurpose.ADD, sid, client_secret)
        if validated is None:
            raise ThreepidAuthFailed("The third-party identifier has not been validated")
        await self.threepids.add(requester.user_id, validated)

    async def _unbind(self, request: RemoveThreepidRequest, address: str) -> dict[str, str]:
        is_unbound = await self.published.unbind(
            request.requester.user_id, request.medium, address, request.id_server
        )
        return {"id_server_unbind_result": "success" if is_unbound else "no-support"}
