"""The interface for looking up the verify keys of servers."""

from collections.abc import Collection, Mapping
from typing import Protocol

import attrs

from hs.core.ids import ServerName
from hs.core.signing.keys import VerifyKey


@attrs.frozen
class VerifyKeyRequest:
    """Keys required of a server; `valid_at_ms` None: expired keys are accepted as well."""

    server: ServerName
    key_ids: frozenset[str]
    valid_at_ms: int | None


class KeyRing(Protocol):
    """Looks up the verify keys of servers, this one included."""

    async def keys_for(
        self, needs: Collection[VerifyKeyRequest]
    ) -> Mapping[VerifyKeyRequest, Mapping[str, VerifyKey]]:
        """Return the required keys that could be obtained, by key ID."""
        ...
