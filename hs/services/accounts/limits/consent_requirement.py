"""What users must agree to before they act, and the signed address at which each of them can."""

import hashlib
import hmac
from typing import Any, Final
from urllib.parse import urlencode

import attrs

from hs.core.requester import ConsentDue
from hs.settings.sections.consent import ConsentSettings

PATH: Final = "/_matrix/consent"


@attrs.frozen(eq=False)
class ConsentRule:
    """What is asked of users, and the signed address at which each can agree."""

    _settings: ConsentSettings
    _base_url: str
    _secret: bytes

    @property
    def is_asked_of_new_users(self) -> bool:
        """Tell whether nobody registers without agreeing."""
        return self._settings.version is not None and self._settings.require_at_registration

    @property
    def version(self) -> str | None:
        """Give the version of the terms; None: there are none."""
        return self._settings.version

    @property
    def policy_name(self) -> str:
        """Give what the terms are called."""
        return self._settings.policy_name

    @property
    def url(self) -> str:
        """Give where anybody can read the terms."""
        query = urlencode({"v": self._settings.version or ""})
        return f"{self._base_url.rstrip('/')}{PATH}?{query}"

    def policies(self) -> dict[str, Any]:
        """Give the documents that new users agree to."""
        english = {"name": self.policy_name, "url": self.url}
        return {"policies": {"privacy_policy": {"version": self._settings.version, "en": english}}}

    def due(self, user_id: str, agreed: str | None, *, is_exempt: bool) -> ConsentDue | None:
        """Tell what a user must agree to before they act; None: nothing."""
        error = self._settings.block_events_error
        if self.version is None or error is None or is_exempt or agreed == self.version:
            return None
        uri = self.uri_for(user_id)
        return ConsentDue(uri, error.replace("%(consent_uri)s", uri))

    def uri_for(self, user_id: str) -> str:
        """Give the address at which a user can agree, and nobody in their name."""
        localpart = user_id[1 : user_id.index(":")]
        query = urlencode({"u": localpart, "h": self.proof_for(localpart)})
        return f"{self._base_url.rstrip('/')}{PATH}?{query}"

    def proof_for(self, localpart: str) -> str:
        """Give what shows that an address was given to a user by this server."""
        return hmac.new(self._secret, localpart.encode(), hashlib.sha256).hexdigest()

    def is_proof(self, localpart: str, given: str) -> bool:
        """Tell whether an address was given to a user by this server."""
        return hmac.compare_digest(self.proof_for(localpart).encode(), given.encode())
