"""A new password for somebody who forgot theirs, and holds an address of their account."""

import attrs

from hs.core.errors import ThreepidNotFound
from hs.services.accounts.lifecycle.account_lifecycle import Lifecycle
from hs.services.accounts.sessions.interactive_auth import Flows, Proof
from hs.services.accounts.threepids.threepid_validation import AddressProofs
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_stages import (
    EMAIL_IDENTITY,
    MSISDN,
    addresses_in,
    sessions_in,
)


@attrs.frozen(eq=False)
class PasswordReset:
    """Sets passwords of those who prove an address."""

    _lifecycle: Lifecycle
    _threepids: Threepids
    _proofs: AddressProofs

    def flows(self) -> Flows:
        """Give what must be proved; empty, where no address can be."""
        possible = (
            (EMAIL_IDENTITY, self._proofs.sends_mail),
            (MSISDN, self._proofs.sends_texts),
        )
        return [[stage] for stage, is_possible in possible if is_possible]

    async def reset(self, proof: Proof, password: str, *, logout_devices: bool) -> None:
        """Set the password of the account that has the proved address; a proof serves once.

        Raises: ThreepidNotFound, InvalidParam, MatrixError.
        """
        (proved, *_) = addresses_in(proof)
        user_id = await self._threepids.owner(proved.medium, proved.address)
        if user_id is None:
            raise ThreepidNotFound("No account has this address")
        await self._lifecycle.reset_password(user_id, password, logout_devices=logout_devices)
        for sid in sessions_in(proof):
            await self._proofs.spend(sid)
