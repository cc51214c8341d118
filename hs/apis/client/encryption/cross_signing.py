"""Cross-signing keys and signatures."""

from typing import Any, Protocol

import attrs

from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.accounts.sessions.interactive_auth import Flows, InteractiveAuth
from hs.services.devices.cross_signing import CrossSigning, KeyUploadRequirement
from hs.services.devices.key_objects import MASTER, SELF_SIGNING, USER_SIGNING


@attrs.frozen
class UploadCrossSigningKeysRequest:
    """POST /keys/device_signing/upload."""

    requester: Requester
    master_key: JsonObject | None = body(default=None)
    self_signing_key: JsonObject | None = body(default=None)
    user_signing_key: JsonObject | None = body(default=None)
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class UploadSignaturesRequest:
    """POST /keys/signatures/upload."""

    requester: Requester
    signed: dict[str, dict[str, dict[str, Any]]] = whole_body()


class ReauthenticationFlows(Protocol):
    """The interactive authentication that sensitive operations require."""

    def flows(self) -> Flows:
        """Return the flows, one of which must be completed."""
        ...


@attrs.frozen
class CrossSigningApi:
    """Endpoints of cross-signing."""

    cross_signing: CrossSigning
    reauthentication: ReauthenticationFlows
    interactive: InteractiveAuth

    @route(
        "POST",
        "/_matrix/client/v3/keys/device_signing/upload",
        extra_paths=["/_matrix/client/unstable/keys/device_signing/upload"],
    )
    async def upload_cross_signing_keys(self, request: UploadCrossSigningKeysRequest) -> Empty:
        """Spec: client-server API, Cross-signing."""
        requester = request.requester
        uploaded = {
            MASTER: request.master_key,
            SELF_SIGNING: request.self_signing_key,
            USER_SIGNING: request.user_signing_key,
        }
        keys, need = await self.cross_signing.read(requester.user_id, uploaded)
        if need is KeyUploadRequirement.NOTHING:
            return Empty()
        if need is KeyUploadRequirement.STORING or requester.appservice_id is not None:
            is_authenticated = requester.appservice_id is not None
            await self.cross_signing.store(requester.user_id, keys, proved=is_authenticated)
            return Empty()
        # The proof holds for exactly these keys.
        operation = " ".join(["cross-signing", *(key.public_key for key in keys)])
        proof = await self.interactive.prove(
            operation, request.auth, self.reauthentication.flows(), requester, always=True
        )
        await self.cross_signing.store(requester.user_id, keys, proved=True)
        await self.interactive.finish(proof)
        return Empty()

    @route(
        "POST",
        "/_matrix/client/v3/keys/signatures/upload",
        work=WorkClass.OTHERS,
        extra_paths=["/_matrix/client/unstable/keys/signatures/upload"],
    )
    async def upload_signatures(self, request: UploadSignaturesRequest) -> dict[str, Any]:
        """Spec: client-server API, Cross-signing."""
        failures = await self.cross_signing.add_signatures(
            request.requester.user_id, request.signed
        )
        return {"failures": failures}
