"""The keys of this server, as it publishes them.

Spec: server-server API, Publishing Keys.
"""

from collections.abc import Mapping

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, VerifyKey
from hs.core.signing.signed_json import sign_json
from hs.lib.clock import Clock
from hs.services.federation_client.key_responses import ServerKey
from hs.settings.sections.server import SigningKeySettings


@attrs.frozen(eq=False)
class OwnKeys:
    """The current signing key and the former ones; the response is valid for `validity_ms`."""

    _signer: Signer
    _settings: SigningKeySettings
    _clock: Clock
    _validity_ms: int

    @property
    def server_name(self) -> ServerName:
        """Name of this server."""
        return self._signer.server_name

    def keys(self) -> Mapping[str, ServerKey]:
        """Return the keys by key ID; the present one is valid, former ones are expired."""
        key = self._signer.key.verify_key
        old_keys = {
            key_id: ServerKey(VerifyKey.parse(key_id, old.key), old.expired_ts)
            for key_id, old in self._settings.old_signing_keys.items()
        }
        return {**old_keys, key.key_id: ServerKey(key, self._valid_until_ms())}

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
                "valid_until_ts": self._valid_until_ms(),
                "verify_keys": {key.key_id: {"key": key.base64}},
                "old_verify_keys": old_keys,
            },
            self._signer,
        )

    def _valid_until_ms(self) -> int:
        return self._clock.now_ms() + self._validity_ms
