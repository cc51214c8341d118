"""Checking JSON web tokens, with a library that is there only where they are used."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs


class InvalidToken(Exception):
    """A token is not signed as it must be, has run out, or is meant for somebody else."""


class TokenReader(Protocol):
    """Checks tokens."""

    def claims(self, token: str) -> Mapping[str, Any]:
        """Give what a token says. Raises: InvalidToken."""
        ...


@attrs.frozen(eq=False, kw_only=True)
class SignedTokenReader:
    """Checks that tokens are signed with one key by one algorithm, and are meant for us."""

    _key: str = attrs.field(repr=False)
    _algorithm: str
    _issuer: str | None
    _audiences: Sequence[str]
    _library: Any = attrs.field(init=False, factory=lambda: importlib.import_module("jwt"))

    def claims(self, token: str) -> Mapping[str, Any]:
        """Give what a token says. Raises: InvalidToken."""
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
            raise InvalidToken(str(error)) from error
        return claims
