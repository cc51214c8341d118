"""What new passwords must contain (MSC2000)."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.route import route
from hs.settings.sections.accounts import PasswordPolicy


@attrs.frozen
class PasswordPolicyApi:
    """`/password_policy`."""

    policy: PasswordPolicy

    @route(
        "GET",
        "/_matrix/client/v3/password_policy",
        auth=NONE,
        also=["/_matrix/client/unstable/password_policy"],
    )
    async def show(self) -> dict[str, Any]:
        """Tell clients, so that they can help users choose."""
        policy = self.policy
        if not policy.enabled:
            return {}
        return {
            "m.minimum_length": policy.minimum_length,
            "m.require_digit": policy.require_digit,
            "m.require_symbol": policy.require_symbol,
            "m.require_lowercase": policy.require_lowercase,
            "m.require_uppercase": policy.require_uppercase,
        }
