"""The password policy (MSC2000)."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.route import route
from hs.settings.sections.accounts import PasswordPolicy


@attrs.frozen
class PasswordPolicyApi:
    """The endpoint of the password policy."""

    policy: PasswordPolicy

    @route(
        "GET",
        "/_matrix/client/v3/password_policy",
        auth=NONE,
        extra_paths=["/_matrix/client/unstable/password_policy"],
    )
    async def get_password_policy(self) -> dict[str, Any]:
        """Spec: MSC2000."""
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
