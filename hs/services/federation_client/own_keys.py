"""The keys of this server, as it publishes them.

Spec: server-server API, Publishing Keys.
"""

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import sign_json
from hs.lib.clock import Clock
from hs.settings.sections.server import SigningKeySettings


@attrs.frozen(eq=False)
class OwnKeys:
    """The current signing key and the former ones; the response is valid for `validity_ms`."""

    _signer: Signer
    _settings: SigningKeySettings
    _clock: Clock
    _validity_ms: int = 24 * 3600 * 1000

    def response(self) -> JsonObject:
        """Return the signed response to `GET /_matrix/key/v2/server`."""
        key = self._signer.key.verify_key
        old_keys = {
            key_id: {"key": old.key, "expired_ts": old.expired_ts}
            for key_id, old in self._settings.old_signing_keys.items()
        }
        return sign_json(
            {
                "server_name": self._signer.server_name,
                "valid_until_ts": self._clock.now_ms() + self._validity_ms,
                "verify_keys": {key.key_id: {"key": key.base64}},
                "old_verify_keys": old_keys,
            },
            self._signer,
        )
