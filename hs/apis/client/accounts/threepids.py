"""The e-mail addresses and telephone numbers of an account."""

from typing import Any, Protocol

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, MissingParam, ThreepidAuthFailed
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.threepids import canonical_address, check_client_secret
from hs.services.accounts.lifecycle.account_lifecycle import Lifecycle
from hs.services.accounts.limits.account_restrictions import check_may_forget_contacts
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.threepids.threepid_validation import AddressProofs
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_emails import Purpose

PATH = "/_matrix/client/v3/account/3pid"
UNSTABLE = "/_matrix/client/unstable/account/3pid"


class PublishedAddresses(Protocol):
    """Publishes addresses at identity servers, and withdraws them."""

    async def bind(
        self, user_id: UserID, id_server: str, id_access_token: str, sid: str, client_secret: str
    ) -> None:
        """Publish the address of a session there. Raises: MatrixError, RemoteFault."""
        ...

    async def unbind(
        self, user_id: UserID, medium: str, address: str, id_server: str | None = None
    ) -> bool:
        """Withdraw an address; tell whether it is withdrawn. Raises: MatrixError, RemoteFault."""
        ...


@attrs.frozen
class OwnRequest:
    """Who asks."""

    requester: Requester


@attrs.frozen
class OldAddRequest:
    """Body of `POST /account/3pid`."""

    requester: Requester
    three_pid_creds: JsonObject | None = body(default=None)
    threepid_creds: JsonObject | None = body(default=None, name="threePidCreds")


@attrs.frozen
class AddRequest:
    """Body of `/account/3pid/add`."""

    requester: Requester
    client_secret: str = body()
    sid: str = body()
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class BindRequest:
    """Body of `/account/3pid/bind`."""

    requester: Requester
    client_secret: str = body()
    id_server: str = body()
    id_access_token: str = body()
    sid: str = body()


@attrs.frozen
class RemoveRequest:
    """Which address."""

    requester: Requester
    medium: str = body()
    address: str = body()
    id_server: str | None = body(default=None)


@attrs.frozen
class ThreepidsApi:
    """`/account/3pid…`."""

    threepids: Threepids
    proofs: AddressProofs
    published: PublishedAddresses
    lifecycle: Lifecycle
    interactive: InteractiveAuth

    @route("GET", PATH)
    async def addresses(self, request: OwnRequest) -> dict[str, Any]:
        """Spec: client-server API, Adding account administrative contact information."""
        found = await self.threepids.of_user(request.requester.user_id)
        return {
            "threepids": [
                {
                    "medium": one.medium,
                    "address": one.address,
                    "validated_at": one.validated_ms,
                    "added_at": one.added_ms,
                }
                for one in found
            ]
        }

    @route("POST", PATH)
    async def add_as_before(self, request: OldAddRequest) -> Empty:
        """Spec: client-server API, Adding account administrative contact information."""
        self._check_changes()
        given = request.three_pid_creds or request.threepid_creds
        if given is None:
            raise MissingParam("Missing three_pid_creds")
        sid, client_secret = given.get("sid"), given.get("client_secret")
        if not isinstance(sid, str) or not isinstance(client_secret, str):
            raise MissingParam("three_pid_creds needs sid and client_secret")
        await self._add(request.requester, sid, client_secret)
        return Empty()

    @route("POST", PATH + "/add", also=[UNSTABLE + "/add"])
    async def add(self, request: AddRequest) -> Empty:
        """Spec: client-server API, Adding account administrative contact information."""
        self._check_changes()
        check_client_secret(request.client_secret)
        proof = await self.interactive.prove(
            "add_threepid", request.auth, self.lifecycle.flows(), request.requester
        )
        await self._add(request.requester, request.sid, request.client_secret)
        await self.interactive.finish(proof)
        return Empty()

    @route("POST", PATH + "/bind", also=[UNSTABLE + "/bind"])
    async def bind(self, request: BindRequest) -> Empty:
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

    @route("POST", PATH + "/unbind", also=[UNSTABLE + "/unbind"])
    async def unbind(self, request: RemoveRequest) -> dict[str, str]:
        """Spec: client-server API, Adding account administrative contact information."""
        address = canonical_address(request.medium, request.address)
        return await self._unbind(request, address)

    @route("POST", PATH + "/delete", also=[UNSTABLE + "/delete"])
    async def delete(self, request: RemoveRequest) -> dict[str, str]:
        """Spec: client-server API, Adding account administrative contact information."""
        self._check_changes()
        check_may_forget_contacts(request.requester)
        address = canonical_address(request.medium, request.address)
        answer = await self._unbind(request, address)
        await self.threepids.remove(request.requester.user_id, request.medium, address)
        return answer

    def _check_changes(self) -> None:
        if not self.threepids.may_change:
            raise Forbidden("Changing addresses is disabled on this server")

    async def _add(self, requester: Requester, sid: str, client_secret: str) -> None:
        proved = None
        if "\0" not in sid:
            proved = await self.proofs.validated(Purpose.ADD, sid, client_secret)
        if proved is None:
            raise ThreepidAuthFailed("The address has not been confirmed")
        await self.threepids.add(requester.user_id, proved)

    async def _unbind(self, request: RemoveRequest, address: str) -> dict[str, str]:
        done = await self.published.unbind(
            request.requester.user_id, request.medium, address, request.id_server
        )
        return {"id_server_unbind_result": "success" if done else "no-support"}
