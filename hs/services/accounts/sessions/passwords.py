"""Hashing and checking passwords, away from the event loop; and what a new one must contain.

Hashes are bcrypt's over the NFKC form of the password and the pepper, cut at 72 bytes, which is
what accounts that come from Synapse have; or, if so configured, argon2id's over the whole of it.
"""

import string
import unicodedata
from functools import partial

import argon2
import attrs
import bcrypt
import trio

from hs.core.errors import InvalidParam, LimitExceeded, MatrixError
from hs.settings.sections.accounts import PasswordPolicy

BCRYPT_BYTES = 72
MAX_PASSWORD_CHARS = 512
MAX_WAITING = 200
ARGON2 = "$argon2"
# What OWASP recommends: 2 passes over 19 MiB by one thread.
_ARGON2 = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Salt and hash that no password has: checked, at the usual cost, when there is no such user.
_NOBODY = "wZb1eY8C4i9eYk1mG8mU1eJ0Yb0Yk7cQm3eQ8lqf5u0m1q9mX3p2K"


@attrs.define(eq=False)
class Passwords:
    """Hashes and checks, a few at once, and refuses when too many wait."""

    _pepper: str
    _rounds: int
    policy: PasswordPolicy
    _scheme: str
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(2))

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises: LimitExceeded, when too many wait.
        """
        self._check_queue()
        work = partial(_hash, self._prepared(password), self._scheme, self._rounds)
        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    def is_dated(self, password_hash: str) -> bool:
        """Tell whether a password is not hashed as new ones are, or at less cost."""
        is_argon2 = password_hash.startswith(ARGON2)
        if self._scheme == "argon2id":
            return not is_argon2 or _ARGON2.check_needs_rehash(password_hash)
        return is_argon2 or _rounds_of(password_hash) < self._rounds

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Tell whether a password is the one; takes as long when there is none to compare with.

        Raises: LimitExceeded, when too many wait.
        """
        if len(password) > MAX_PASSWORD_CHARS:
            return False
        self._check_queue()
        prepared = self._prepared(password)
        if password_hash is not None:
            work = partial(_check, prepared, password_hash)
        elif self._scheme == "argon2id":
            work = partial(_check_nobody, prepared)
        else:
            work = partial(_check, prepared, f"$2b${self._rounds:02}${_NOBODY}")
        same = await trio.to_thread.run_sync(work, limiter=self._limiter)
        return same and password_hash is not None

    def check_new(self, password: str) -> None:
        """Refuse a password that the policy does not allow.

        Raises: InvalidParam; MatrixError, with an errcode that tells what is missing.
        """
        if not password or len(password) > MAX_PASSWORD_CHARS:
            raise InvalidParam(f"A password has 1 to {MAX_PASSWORD_CHARS} characters")
        policy = self.policy
        if not policy.enabled:
            return
        if len(password) < policy.minimum_length:
            raise MatrixError(
                "M_PASSWORD_TOO_SHORT",
                400,
                f"The password needs {policy.minimum_length} characters at least",
            )
        wanted = (
            (policy.require_digit, str.isdigit, "M_PASSWORD_NO_DIGIT", "a digit"),
            (policy.require_symbol, _is_symbol, "M_PASSWORD_NO_SYMBOL", "a symbol"),
            (policy.require_uppercase, str.isupper, "M_PASSWORD_NO_UPPERCASE", "a capital letter"),
            (policy.require_lowercase, str.islower, "M_PASSWORD_NO_LOWERCASE", "a small letter"),
        )
        for required, test, errcode, name in wanted:
            if required and not any(map(test, password)):
                raise MatrixError(errcode, 400, f"The password needs {name}")

    def _prepared(self, password: str) -> bytes:
        text = unicodedata.normalize("NFKC", password) + self._pepper
        return text.encode()

    def _check_queue(self) -> None:
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise LimitExceeded("Too many log in at once", retry_after_ms=5000)


def _is_symbol(character: str) -> bool:
    return character in string.punctuation or not (character.isalnum() or character.isspace())


def _hash(prepared: bytes, scheme: str, rounds: int) -> str:
    if scheme == "argon2id":
        return _ARGON2.hash(prepared)
    return bcrypt.hashpw(prepared[:BCRYPT_BYTES], bcrypt.gensalt(rounds)).decode("ascii")


def _rounds_of(password_hash: str) -> int:
    parts = password_hash.split("$")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdecimal() else 0


def _check_nobody(prepared: bytes) -> bool:
    _ARGON2.hash(prepared)
    return False


def _check(prepared: bytes, password_hash: str) -> bool:
    if password_hash.startswith(ARGON2):
        try:
            return _ARGON2.verify(password_hash, prepared)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    try:
        return bcrypt.checkpw(prepared[:BCRYPT_BYTES], password_hash.encode())
    except ValueError:
        return False  # not a bcrypt hash: put there by hand, perhaps to lock the account
