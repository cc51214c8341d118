"""Cross-signing keys, and signatures made with them."""

from typing import Any, Protocol

import attrs

from hs.apis.web.render import Empty
from hs.apis.web.request import body, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.accounts.sessions.interactive_auth import Flows, InteractiveAuth
from hs.services.devices.cross_signing import CrossSigning, Need
from hs.services.devices.key_objects import MASTER, SELF_SIGNING, USER_SIGNING


@attrs.frozen
class SigningKeysRequest:
    """Body of `/keys/device_signing/upload`."""

    requester: Requester
    master_key: JsonObject | None = body(default=None)
    self_signing_key: JsonObject | None = body(default=None)
    user_signing_key: JsonObject | None = body(default=None)
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class SignaturesRequest:
    """Body of `/keys/signatures/upload`."""

    requester: Requester
    signed: dict[str, dict[str, dict[str, Any]]] = whole_body()


class Demands(Protocol):
    """Tells what users must prove before they do what cannot be undone."""

    def flows(self) -> Flows:
        """Give the flows of which one must be completed."""
        ...


@attrs.frozen
class CrossSigningApi:
    """`/keys/device_signing/upload` and `/keys/signatures/upload`."""

    cross_signing: CrossSigning
    demands: Demands
    interactive: InteractiveAuth

    @route(
        "POST",
        "/_matrix/client/v3/keys/device_signing/upload",
        also=["/_matrix/client/unstable/keys/device_signing/upload"],
    )
    async def upload(self, request: SigningKeysRequest) -> Empty:
        """Spec: client-server API, Cross-signing."""
        requester = request.requester
        uploaded = {
            MASTER: request.master_key,
            SELF_SIGNING: request.self_signing_key,
            USER_SIGNING: request.user_signing_key,
        }
        keys, need = await self.cross_signing.read(requester.user_id, uploaded)
        if need is Need.NOTHING:
            return Empty()
        if need is Need.STORING or requester.appservice_id is not None:
            proved = requester.appservice_id is not None
            await self.cross_signing.store(requester.user_id, keys, proved=proved)
            return Empty()
        # What was proved is good for these keys only.
        operation = " ".join(["cross-signing", *(key.public_key for key in keys)])
        proof = await self.interactive.prove(
            operation, request.auth, self.demands.flows(), requester, always=True
        )
        await self.cross_signing.store(requester.user_id, keys, proved=True)
        await self.interactive.finish(proof)
        return Empty()

    @route(
        "POST",
        "/_matrix/client/v3/keys/signatures/upload",
        also=["/_matrix/client/unstable/keys/signatures/upload"],
    )
    async def add_signatures(self, request: SignaturesRequest) -> dict[str, Any]:
        """Spec: client-server API, Cross-signing."""
        failures = await self.cross_signing.add_signatures(
            request.requester.user_id, request.signed
        )
        return {"failures": failures}
