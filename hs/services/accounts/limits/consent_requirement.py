"""The consent requirement: which terms users must agree to, and the links to the consent page."""

import hashlib
import hmac
from typing import Any, Final
from urllib.parse import urlencode

import attrs

from hs.core.requester import RequiredConsent
from hs.settings.sections.consent import ConsentSettings

PATH: Final = "/_matrix/consent"


@attrs.frozen(eq=False)
class ConsentRequirement:
    """The terms that users must agree to, and the signed link with which a user can do so."""

    _settings: ConsentSettings
    _base_url: str
    _secret: bytes

    @property
    def is_required_at_registration(self) -> bool:
        """Whether users must agree to the terms when they register."""
        return self._settings.version is not None and self._settings.require_at_registration

    @property
    def version(self) -> str | None:
        """Version of the terms; None if there are none."""
        return self._settings.version

    @property
    def policy_name(self) -> str:
        """Title of the terms."""
        return self._settings.policy_name

    @property
    def url(self) -> str:
        """Public URL of the terms."""
        query = urlencode({"v": self._settings.version or ""})
        return f"{self._base_url.rstrip('/')}{PATH}?{query}"

    def policies(self) -> dict[str, Any]:
        """Return the parameters of the stage `m.login.terms`."""
        english = {"name": self.policy_name, "url": self.url}
        return {"policies": {"privacy_policy": {"version": self._settings.version, "en": english}}}

    def due(
        self, user_id: str, agreed_version: str | None, *, is_exempt: bool
    ) -> RequiredConsent | None:
        """Return the consent that a user still has to give; None if there is none."""
        error = self._settings.block_events_error
        if self.version is None or error is None or is_exempt or agreed_version == self.version:
            return None
        uri = self.uri_for(user_id)
        return RequiredConsent(uri, error.replace("%(consent_uri)s", uri))

    def uri_for(self, user_id: str) -> str:
        """Return the URL at which a user can agree; its signature is valid for this user only."""
        localpart = user_id[1 : user_id.index(":")]
        query = urlencode({"u": localpart, "h": self.signature_for(localpart)})
        return f"{self._base_url.rstrip('/')}{PATH}?{query}"

    def signature_for(self, localpart: str) -> str:
        """Return the signature (HMAC-SHA256, hex) that the user's consent URL contains."""
        return hmac.new(self._secret, localpart.encode(), hashlib.sha256).hexdigest()

    def is_valid_signature(self, localpart: str, signature: str) -> bool:
        """Return whether a signature is that of the user's consent URL."""
        return hmac.compare_digest(self.signature_for(localpart).encode(), signature.encode())
