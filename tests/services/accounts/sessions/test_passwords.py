"""Hashing passwords."""

import bcrypt
import pytest

from hs.cli.passwords import hashed
from hs.core.errors import InvalidParam
from hs.services.accounts.sessions.passwords import Passwords
from hs.settings.sections.accounts import PasswordPolicy

NO_POLICY = PasswordPolicy()


def passwords(pepper: str = "") -> Passwords:
    return Passwords(pepper, 4, NO_POLICY, "bcrypt")


async def test_a_password_matches_its_hash_and_no_other() -> None:
    made = await passwords().hash("secret")

    assert await passwords().matches("secret", made)
    assert not await passwords().matches("Secret", made)
    assert not await passwords("pepper").matches("secret", made)
    assert not await passwords().matches("secret", None)


async def test_hashes_of_the_command_line_are_the_same_kind() -> None:
    assert await passwords("p").matches("ﬁne", hashed("fine", "p", 4))


async def test_passwords_are_cut_where_bcrypt_cuts_them() -> None:
    made = await passwords().hash("x" * 100)

    assert await passwords().matches("x" * 72, made)
    assert bcrypt.checkpw(b"x" * 72, made.encode())


async def test_what_is_no_hash_matches_nothing() -> None:
    for text in ("", "!", "$2b$12$short", "plain"):
        assert not await passwords().matches("plain", text)


async def test_endless_passwords_are_refused_without_hashing() -> None:
    assert not await passwords().matches("x" * 1_000_000, None)
    with pytest.raises(InvalidParam):
        passwords().check_new("x" * 1_000_000)
