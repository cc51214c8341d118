"""Hashing and checking passwords, away from the event loop; and what a new one must contain.

Hashes are bcrypt's over the NFKC form of the password and the pepper, cut at 72 bytes, which is
what accounts that come from Synapse have.
"""

import string
import unicodedata

import attrs
import bcrypt
import trio

from hs.core.errors import InvalidParam, LimitExceeded, WeakPassword
from hs.settings.accounts import PasswordPolicy

BCRYPT_BYTES = 72
MAX_PASSWORD_CHARS = 512
MAX_WAITING = 200
# Salt and hash that no password has: checked, at the usual cost, when there is no such user.
_NOBODY = "wZb1eY8C4i9eYk1mG8mU1eJ0Yb0Yk7cQm3eQ8lqf5u0m1q9mX3p2K"


@attrs.define(eq=False)
class Passwords:
    """Hashes and checks, a few at once, and refuses when too many wait."""

    _pepper: str
    _rounds: int
    _policy: PasswordPolicy
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(2))

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises: LimitExceeded, when too many wait.
        """
        self._check_queue()
        return await trio.to_thread.run_sync(
            _hash, self._prepared(password), self._rounds, limiter=self._limiter
        )

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Tell whether a password is the one; takes as long when there is none to compare with.

        Raises: LimitExceeded, when too many wait.
        """
        if len(password) > MAX_PASSWORD_CHARS:
            return False
        self._check_queue()
        compared = password_hash or f"$2b${self._rounds:02}${_NOBODY}"
        same = await trio.to_thread.run_sync(
            _check, self._prepared(password), compared, limiter=self._limiter
        )
        return same and password_hash is not None

    def check_new(self, password: str) -> None:
        """Refuse a password that the policy does not allow.

        Raises: InvalidParam, WeakPassword.
        """
        if not password or len(password) > MAX_PASSWORD_CHARS:
            raise InvalidParam(f"A password has 1 to {MAX_PASSWORD_CHARS} characters")
        policy = self._policy
        if not policy.enabled:
            return
        if len(password) < policy.minimum_length:
            raise WeakPassword(f"The password needs {policy.minimum_length} characters at least")
        wanted = (
            (policy.require_digit, str.isdigit, "a digit"),
            (policy.require_symbol, _is_symbol, "a symbol"),
            (policy.require_lowercase, str.islower, "a lower-case letter"),
            (policy.require_uppercase, str.isupper, "an upper-case letter"),
        )
        for required, test, name in wanted:
            if required and not any(map(test, password)):
                raise WeakPassword(f"The password needs {name}")

    def _prepared(self, password: str) -> bytes:
        text = unicodedata.normalize("NFKC", password) + self._pepper
        return text.encode()[:BCRYPT_BYTES]

    def _check_queue(self) -> None:
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise LimitExceeded("Too many log in at once", retry_after_ms=5000)


def _is_symbol(character: str) -> bool:
    return character in string.punctuation or not (character.isalnum() or character.isspace())


def _hash(prepared: bytes, rounds: int) -> str:
    return bcrypt.hashpw(prepared, bcrypt.gensalt(rounds)).decode("ascii")


def _check(prepared: bytes, password_hash: str) -> bool:
    try:
        return bcrypt.checkpw(prepared, password_hash.encode())
    except ValueError:
        return False  # not a bcrypt hash: put there by hand, perhaps to lock the account
