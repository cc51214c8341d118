"""Verification of JSON web tokens, with a library that is imported only if they are configured."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs


class InvalidJwt(Exception):
    """The token has no valid signature, has expired, or is for another issuer or audience."""


@attrs.frozen(eq=False, kw_only=True)
class JwtVerifier:
    """Verifies signature, issuer, audience and expiry of tokens, with one key and algorithm."""

    _key: str = attrs.field(repr=False)
    _algorithm: str
    _issuer: str | None
    _audiences: Sequence[str]
    _library: Any = attrs.field(init=False, factory=lambda: importlib.import_module("jwt"))

    def claims(self, token: str) -> Mapping[str, Any]:
        """Verify a token and return its claims.

        Raises: InvalidJwt.
        """
        required = [
            name for name, is_set in (("iss", self._issuer), ("aud", self._audiences)) if is_set
        ]
        try:
            claims: Mapping[str, Any] = self._library.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                issuer=self._issuer,
                audience=list(self._audiences) or None,
                options={"verify_aud": bool(self._audiences), "require": required},
            )
        except (self._library.PyJWTError, ValueError, TypeError) as error:
            raise InvalidJwt(str(error)) from error
        return claims
