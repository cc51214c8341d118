"""Password reset for users who validate a third-party identifier of their account."""

import attrs

from hs.core.errors import ThreepidNotFound
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.sessions.interactive_auth import Flows, UiaProof
from hs.services.accounts.threepids.threepid_validation import ThreepidValidation
from hs.services.accounts.threepids.threepids import Threepids
from hs.services.accounts.threepids.validation_stages import (
    EMAIL_IDENTITY,
    MSISDN,
    sessions_in,
    threepids_in,
)


@attrs.frozen(eq=False)
class PasswordReset:
    """Password reset by a validated third-party identifier."""

    _lifecycle: AccountLifecycle
    _threepids: Threepids
    _proofs: ThreepidValidation

    def flows(self) -> Flows:
        """Return the UIA flows; empty if no identifier can be validated on this server."""
        stages = (
            (EMAIL_IDENTITY, self._proofs.sends_mail),
            (MSISDN, self._proofs.sends_texts),
        )
        return [[stage] for stage, is_possible in stages if is_possible]

    async def reset(self, proof: UiaProof, password: str, *, logout_devices: bool) -> None:
        """Set the password of the account with the validated identifier; a proof is valid once.

        Raises: ThreepidNotFound, InvalidParam, MatrixError.
        """
        (threepid, *_) = threepids_in(proof)
        user_id = await self._threepids.owner(threepid.medium, threepid.address)
        if user_id is None:
            raise ThreepidNotFound("No account has this third-party identifier")
        await self._lifecycle.reset_password(user_id, password, logout_devices=logout_devices)
        for sid in sessions_in(proof):
            await self._proofs.end_session(sid)
