"""Password hashing and verification in threads, and the password policy.

Passwords are hashed in NFKC form with the pepper appended. The default is bcrypt, over the first
72 bytes, as in Synapse, so that imported accounts keep their passwords; argon2id can be configured.

Log-ins have threads of their own: neither registrations, which need no account, nor users who
confirm operations with their password can delay them.
"""

import string
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import argon2
import attrs
import bcrypt
import trio

from hs.core.errors import InvalidParam, LimitExceeded, MatrixError
from hs.settings.sections.accounts import PasswordPolicy

T = TypeVar("T")

BCRYPT_BYTES = 72
MAX_PASSWORD_CHARS = 512
LOGIN_THREADS: Final = 2
OTHER_THREADS: Final = 1
MAX_WAITING_LOGINS: Final = 200
MAX_WAITING_OTHERS: Final = 50
ARGON2 = "$argon2"
# As OWASP recommends: 2 passes over 19 MiB by one thread.
_ARGON2 = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Salt and hash that match no password. They are checked if the user does not exist, so that the
# response time does not reveal this.
_NO_USER = "wZb1eY8C4i9eYk1mG8mU1eJ0Yb0Yk7cQm3eQ8lqf5u0m1q9mX3p2K"


@attrs.define(eq=False)
class _HashPool:
    """Threads for hashing, with a bounded queue."""

    _limiter: trio.CapacityLimiter
    _max_waiting: int

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in a thread of the pool. Raises: LimitExceeded if the queue is full."""
        if self._limiter.statistics().tasks_waiting >= self._max_waiting:
            raise LimitExceeded("Too many passwords to check", retry_after_ms=5000)
        return await trio.to_thread.run_sync(work, limiter=self._limiter)


def _login_pool() -> _HashPool:
    return _HashPool(trio.CapacityLimiter(LOGIN_THREADS), MAX_WAITING_LOGINS)


def _other_pool() -> _HashPool:
    return _HashPool(trio.CapacityLimiter(OTHER_THREADS), MAX_WAITING_OTHERS)


@attrs.define(eq=False)
class Passwords:
    """Password hashing with limited concurrency and bounded queues."""

    _pepper: str
    _rounds: int
    policy: PasswordPolicy
    _scheme: str
    _logins: _HashPool = attrs.field(factory=_login_pool, init=False)
    _others: _HashPool = attrs.field(factory=_other_pool, init=False)

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises: LimitExceeded if the queue is full.
        """
        return await self._others.run(
            partial(_hash, self._prepared(password), self._scheme, self._rounds)
        )

    def needs_rehash(self, password_hash: str) -> bool:
        """Return whether a hash uses another scheme than new hashes, or a lower cost."""
        is_argon2 = password_hash.startswith(ARGON2)
        if self._scheme == "argon2id":
            return not is_argon2 or _ARGON2.check_needs_rehash(password_hash)
        return is_argon2 or _rounds_of(password_hash) < self._rounds

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Return whether a password matches a hash, for a log-in.

        It takes as long if there is no hash. Raises: LimitExceeded if the queue is full.
        """
        return await self._compare(self._logins, password, password_hash)

    async def confirms(self, password: str, password_hash: str | None) -> bool:
        """Return the same as `matches`, for users who confirm an operation or a registration."""
        return await self._compare(self._others, password, password_hash)

    async def _compare(self, pool: _HashPool, password: str, password_hash: str | None) -> bool:
        if len(password) > MAX_PASSWORD_CHARS:
            return False
        prepared = self._prepared(password)
        if password_hash is not None:
            work = partial(_check, prepared, password_hash)
        elif self._scheme == "argon2id":
            work = partial(_check_no_user, prepared)
        else:
            work = partial(_check, prepared, f"$2b${self._rounds:02}${_NO_USER}")
        is_match = await pool.run(work)
        return is_match and password_hash is not None

    def check_new(self, password: str) -> None:
        """Reject a new password that the policy does not permit.

        Raises: InvalidParam; MatrixError with the errcode of the unmet requirement.
        """
        if not password or len(password) > MAX_PASSWORD_CHARS:
            raise InvalidParam(f"The password must have 1 to {MAX_PASSWORD_CHARS} characters")
        policy = self.policy
        if not policy.enabled:
            return
        if len(password) < policy.minimum_length:
            raise MatrixError(
                "M_PASSWORD_TOO_SHORT",
                400,
                f"The password must have at least {policy.minimum_length} characters",
            )
        requirements = (
            (policy.require_digit, str.isdigit, "M_PASSWORD_NO_DIGIT", "a digit"),
            (policy.require_symbol, _is_symbol, "M_PASSWORD_NO_SYMBOL", "a symbol"),
            (
                policy.require_uppercase,
                str.isupper,
                "M_PASSWORD_NO_UPPERCASE",
                "an uppercase letter",
            ),
            (
                policy.require_lowercase,
                str.islower,
                "M_PASSWORD_NO_LOWERCASE",
                "a lowercase letter",
            ),
        )
        for is_required, matches, errcode, requirement in requirements:
            if is_required and not any(map(matches, password)):
                raise MatrixError(errcode, 400, f"The password must contain {requirement}")

    def _prepared(self, password: str) -> bytes:
        text = unicodedata.normalize("NFKC", password) + self._pepper
        return text.encode()


def _is_symbol(character: str) -> bool:
    return character in string.punctuation or not (character.isalnum() or character.isspace())


def _hash(prepared: bytes, scheme: str, rounds: int) -> str:
    if scheme == "argon2id":
        return _ARGON2.hash(prepared)
    return bcrypt.hashpw(prepared[:BCRYPT_BYTES], bcrypt.gensalt(rounds)).decode("ascii")


def _rounds_of(password_hash: str) -> int:
    parts = password_hash.split("$")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdecimal() else 0


def _check_no_user(prepared: bytes) -> bool:
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
        return False  # not a bcrypt hash: perhaps set manually to disable the password
