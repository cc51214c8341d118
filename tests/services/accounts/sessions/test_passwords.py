"""Password hashing."""

import bcrypt
import pytest

from hs.cli.passwords import hash_with_bcrypt
from hs.core.errors import InvalidParam
from hs.services.accounts.sessions.passwords import Passwords
from hs.settings.sections.accounts import PasswordPolicy

NO_POLICY = PasswordPolicy()


def passwords(pepper: str = "") -> Passwords:
    return Passwords(pepper, 4, NO_POLICY, "bcrypt")


async def test_password_matches_only_its_own_hash() -> None:
    password_hash = await passwords().hash("secret")

    assert await passwords().matches("secret", password_hash)
    assert not await passwords().matches("Secret", password_hash)
    assert not await passwords("pepper").matches("secret", password_hash)
    assert not await passwords().matches("secret", None)


async def test_hashes_of_the_cli_are_compatible() -> None:
    assert await passwords("p").matches("ﬁne", hash_with_bcrypt("fine", "p", 4))


async def test_passwords_are_truncated_at_72_bytes_for_bcrypt() -> None:
    password_hash = await passwords().hash("x" * 100)

    assert await passwords().matches("x" * 72, password_hash)
    assert bcrypt.checkpw(b"x" * 72, password_hash.encode())


async def test_invalid_hash_matches_no_password() -> None:
    for invalid_hash in ("", "!", "$2b$12$short", "plain"):
        assert not await passwords().matches("plain", invalid_hash)


async def test_overlong_password_is_rejected_without_hashing() -> None:
    assert not await passwords().matches("x" * 1_000_000, None)
    with pytest.raises(InvalidParam):
        passwords().check_new("x" * 1_000_000)
